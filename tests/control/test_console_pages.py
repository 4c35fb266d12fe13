"""What operators do at the console without scripts: every form changes what it says, and a refusal says why."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from console_fixture import Browser, Console, bundle, in_process

from tilth.client.shapes.endpoint import Endpoint, Standing, Usage, UsagePoint, Wanted
from tilth.control.console import call_example, chart, history, now, order, words
from tilth.control.store.audit import Event
from tilth.core.errors import InvalidError

P = "/console/p/default"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A control plane with a model of three versions."""
    with in_process(tmp_path_factory.mktemp("home")) as made:
        made.api("POST", "/v1/projects/default/models", {"name": "m"})
        for scale in (1.0, 2.0, 3.0):
            made.api.push("m", bundle(scale), description=f"scale {scale:g}")
        yield made


@pytest.fixture(scope="module")
def browser(console: Console) -> Browser:
    """A browser of the administrator."""
    return console.browser()


def sent(browser: Browser, page: str, path: str, told: dict[str, Any], done: str = "") -> str:
    """Load a page, send a form on it, and return the text of the page that follows."""
    assert browser.get(page).status_code == 200
    assert f'action="{path}"' in browser.page, f"{page} has no form for {path}"
    etags = re.findall(rf'action="{re.escape(path)}".*?name="etag" value="([^"]*)"', browser.page, re.DOTALL)
    answer = browser.post(path, ({"etag": etags[0].replace("&#34;", '"')} if etags else {}) | told)
    assert answer.status_code == 303, browser.text
    assert done in browser.text
    return browser.text


# -- models and versions


def test_a_model_is_made_changed_and_removed(console: Console, browser: Browser) -> None:
    sent(browser, f"{P}/models", f"{P}/models/make", {"name": "new", "description": "a"}, "The model is there")
    changed = {"description": "two\nlines", "tags": "team = risk\n\nkind=b=c"}
    sent(browser, f"{P}/models/new", f"{P}/models/new/change", changed, "The change is kept")
    found = console.api("GET", "/v1/projects/default/models/new")
    assert (found["description"], found["tags"]) == ("two\nlines", {"team": "risk", "kind": "b=c"})
    rules = {"approve": ["production"], "deploy": ["staging", "production"]}
    sent(browser, f"{P}/models/new", f"{P}/models/new/rules", rules)
    found = console.api("GET", "/v1/projects/default/models/new")
    assert (found["approve"], found["deploy"]) == (rules["approve"], rules["deploy"])
    sent(browser, f"{P}/models/new", f"{P}/models/new/rules", {})
    assert console.api("GET", "/v1/projects/default/models/new")["approve"] == []
    assert browser.post(f"{P}/models/new/remove").status_code == 400 and "nothing is removed" in browser.text
    sent(browser, f"{P}/models/new", f"{P}/models/new/remove", {"sure": "yes"}, "The model is removed")
    assert browser.get(f"{P}/models/new").status_code == 404


def test_a_version_is_removed_for_good_when_nothing_needs_it(console: Console, browser: Browser) -> None:
    console.api("POST", "/v1/projects/default/models", {"name": "old"})
    console.api.push("old", bundle(5.0), aliases=["kept"])
    page = f"{P}/models/old/versions/1"
    browser.get(page)
    assert browser.post(f"{page}/remove", {"sure": "yes"}).status_code == 409
    assert "alias `kept` names version 1" in browser.text
    sent(browser, f"{P}/models/old", f"{P}/models/old/aliases/remove", {"alias": "kept"})
    sent(browser, page, f"{page}/remove", {"sure": "yes"}, "The version is removed")


def test_an_alias_is_set_moved_and_removed(console: Console, browser: Browser) -> None:
    page = f"{P}/models/m"
    sent(browser, page, f"{page}/aliases/put", {"alias": "best", "number": "1"})
    sent(browser, f"{page}/versions/2", f"{page}/aliases/put", {"alias": "best", "number": "2", "on_version": "2"})
    assert "best names this version" in browser.text
    assert console.api("GET", "/v1/projects/default/models/m/aliases/best")["number"] == 2
    sent(browser, page, f"{page}/aliases/remove", {"alias": "best"})
    console.api("GET", "/v1/projects/default/models/m/aliases/best", status=404)


def test_a_certificate_page_says_which_build_won_and_why_others_lost(browser: Browser) -> None:
    assert browser.get(f"{P}/models/m/versions/1").status_code == 200
    for words_of_it in ("reference fp32", "latency at batch 1", "1.40 x the winner", "no `<operator>` to quantise"):
        assert words_of_it in browser.text
    # 0.1 ms and 1.1 ms, errors 1e-7 and 0.01, one node of three elsewhere.
    for figure in ("0.1 ms", "1.1 ms", "1e-7", "0.01", "33.333 %", "matmul", "accuracy"):
        assert figure in browser.text
    assert len(re.findall(r'<circle class="mark ', browser.page)) == 2
    assert len(re.findall(r'<circle class="mark-ring"', browser.page)) == 1


def test_a_version_whose_bundle_is_damaged_still_has_a_page(console: Console, browser: Browser) -> None:
    assert console.plane is not None
    console.api("POST", "/v1/projects/default/models", {"name": "hurt"})
    made = console.api.push("hurt", bundle(7.0))
    path = next(console.plane.settings.home.blobs.rglob(made["digest"][:64]), None)
    path = path or next(one for one in console.plane.settings.home.blobs.rglob("*") if made["digest"][4:] in one.name)
    path.chmod(0o600)
    path.write_bytes(b"{}")
    assert browser.get(f"{P}/models/hurt/versions/1").status_code == 200
    assert "is damaged" in browser.text and "Where it came from" in browser.text


def test_a_stage_with_a_rule_waits_for_a_second_person(console: Console, browser: Browser) -> None:
    api = console.api
    api("POST", "/v1/projects/default/models", {"name": "ruled", "approve": ["production"], "deploy": ["production"]})
    api.push("ruled", bundle(4.0))
    page = f"{P}/models/ruled/versions/1"
    browser.get(page)
    assert "let versions in stage production be deployed" in browser.text
    sent(browser, page, f"{page}/stage", {"stage": "production", "note": "please"}, "A second person is asked")
    approval = api("GET", "/v1/projects/default/approvals?state=waiting&model=ruled")["items"][0]["id"]
    assert "Accept" not in browser.text and "Take back" in browser.text
    second = console.browser(api.user("second", default="operator"))
    second.get(P)
    assert "ruled v1 into production" in second.text
    sent(second, f"{P}/approvals", f"{P}/approvals/{approval}", {"say": "accept", "note": "yes"}, "Your decision")
    assert api("GET", "/v1/projects/default/models/ruled/versions/1")["stage"] == "production"


def test_who_asked_cannot_accept_and_can_take_it_back(console: Console, browser: Browser) -> None:
    page = f"{P}/models/m/versions/3"
    sent(browser, f"{P}/models/m", f"{P}/models/m/rules", {"approve": "staging"})
    sent(browser, page, f"{page}/stage", {"stage": "staging"})
    approval = console.api("GET", "/v1/projects/default/approvals?state=waiting&model=m")["items"][0]["id"]
    browser.get(f"{P}/approvals")
    assert browser.post(f"{P}/approvals/{approval}", {"say": "accept"}).status_code == 403
    assert "a second person has to accept it" in browser.text
    sent(browser, page, f"{P}/approvals/{approval}", {"say": "reject", "on_version": "3"})
    assert console.api("GET", "/v1/projects/default/models/m/versions/3")["stage"] == "none"


# -- endpoints


def test_an_endpoint_is_made_deployed_to_shifted_rolled_back_and_removed(console: Console, browser: Browser) -> None:
    page, path = f"{P}/endpoints/e", "/v1/projects/default/endpoints/e"
    sent(browser, f"{P}/endpoints", f"{P}/endpoints/make", {"name": "e", "model": "m"}, "The endpoint is there")
    assert "Nothing was deployed" in browser.text
    sent(browser, page, f"{page}/deploy", {"version": "1", "share": "100", "note": "first"}, "on its way")
    sent(browser, page, f"{page}/deploy", {"version": "2", "share": "10", "way": "traffic"})
    assert console.api("GET", path)["wanted"] == {"traffic": {"1": 90.0, "2": 10.0}, "shadow": {}}
    sent(browser, page, f"{page}/deploy", {"version": "3", "share": "5", "way": "shadow"})
    assert console.api("GET", path)["wanted"] == {"traffic": {"1": 90.0, "2": 10.0}, "shadow": {"3": 5.0}}
    sent(browser, page, f"{page}/shift", {"version": "2", "share": "40"}, "being shifted")
    assert console.api("GET", path)["wanted"]["traffic"] == {"1": 60.0, "2": 40.0}
    sent(browser, page, f"{page}/promote", {"version": "2"}, "answer everything")
    assert console.api("GET", path)["wanted"]["traffic"] == {"2": 100.0}
    sent(browser, page, f"{page}/rollback", {"deployment": "2", "note": "worse"}, "goes back")
    assert console.api("GET", path)["wanted"]["traffic"] == {"1": 90.0, "2": 10.0}
    assert "worse" in browser.text
    browser.get(page)
    assert browser.post(f"{page}/remove", {"name": "another"}).status_code == 400
    sent(browser, page, f"{page}/remove", {"name": "e"}, "The endpoint is removed")
    console.api("GET", path, status=404)


def test_a_version_is_deployed_from_its_own_page_to_a_new_endpoint_at_once(console: Console, browser: Browser) -> None:
    page = f"{P}/models/m/versions/2"
    sent(browser, page, f"{page}/deploy", {"endpoint": "", "new_endpoint": "fresh", "share": "100"}, "on its way")
    assert console.api("GET", "/v1/projects/default/endpoints/fresh")["wanted"]["traffic"] == {"2": 100.0}


def test_a_refused_deployment_makes_no_endpoint(console: Console, browser: Browser) -> None:
    page = f"{P}/models/m/versions/2"
    browser.get(page)
    assert browser.post(f"{page}/deploy", {"new_endpoint": "half", "share": "0"}).status_code == 400
    assert "nobody would answer" in browser.text
    console.api("GET", "/v1/projects/default/endpoints/half", status=404)


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(console: Console, browser: Browser) -> None:
    api, page = console.api, f"{P}/endpoints/busy"
    api("POST", "/v1/projects/default/endpoints", {"name": "busy", "model": "m"})
    api("POST", "/v1/projects/default/endpoints/busy/deploy", {"version": "1"})
    browser.get(page)
    found = re.search(r'name="etag" value="([^"]*)"', browser.page)
    assert found is not None
    api("POST", "/v1/projects/default/endpoints/busy/deploy", {"version": "2", "traffic": 50})
    etag = found[1].replace("&#34;", '"')
    answer = browser.post(f"{page}/deploy", {"etag": etag, "version": "3", "share": "30", "note": "mine"})
    assert answer.status_code == 412 and "it was changed meanwhile" in browser.text
    # The page that says so is up to date, and has what was typed.
    assert 'value="mine"' in browser.page and 'value="30"' in browser.page
    assert "3" not in api("GET", "/v1/projects/default/endpoints/busy")["wanted"]["traffic"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"version": "1", "share": "x"}, "is not a number"),
        ({"version": "1", "share": "101"}, "less than or equal to 100"),
        ({"version": "1", "share": "nan"}, "not understood"),
        ({"version": "", "share": "1"}, "no version is chosen"),
        ({"version": "99", "share": "1"}, "there is no version"),
        ({"version": "1", "share": "1", "note": "n" * 5000}, "4096"),
    ],
)
def test_a_deployment_that_makes_no_sense_is_refused_with_a_reason(
    console: Console, browser: Browser, told: dict[str, str], why: str
) -> None:
    path = "/v1/projects/default/endpoints/refusing"
    if not any(one["name"] == "refusing" for one in console.api("GET", path.rpartition("/")[0])["items"]):
        console.api("POST", path.rpartition("/")[0], {"name": "refusing", "model": "m"})
    browser.get(f"{P}/endpoints/refusing")
    answer = browser.post(f"{P}/endpoints/refusing/deploy", told)
    assert answer.status_code in (400, 404) and why in browser.text
    assert console.api("GET", path)["deployment"] == 0


# -- people


def test_a_secret_is_shown_once_and_works(console: Console, browser: Browser) -> None:
    browser.get("/console/account")
    told = {"name": "ci", "project": "default", "role": "viewer", "lasts": "day"}
    answer = browser.post("/console/account/tokens", told)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    secrets = set(re.findall(r"tilth_[A-Za-z0-9_-]{43}", browser.page))
    assert len(secrets) == 1
    secret = secrets.pop()
    me = console.client().get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()
    assert (me["project"], me["role"]) == ("default", "viewer")
    browser.get("/console/account")
    assert secret not in browser.page and "ci" in browser.text
    identity = next(one["id"] for one in console.api("GET", "/v1/tokens")["items"] if one["name"] == "ci")
    sent(browser, "/console/account", f"/console/account/tokens/{identity}/revoke", {}, "The token is revoked")
    assert console.client().get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_nobody_makes_a_token_for_another_but_an_administrator(console: Console, browser: Browser) -> None:
    other = console.browser(console.api.user("plain", default="developer"))
    other.get("/console/account")
    assert other.post("/console/account/tokens", {"name": "x", "user": "admin"}).status_code == 403
    browser.get("/console/account?user=plain")
    assert 'value="plain"' in browser.page
    assert browser.post("/console/account/tokens", {"name": "x", "user": "plain"}).status_code == 200


def test_users_are_made_disabled_and_enabled(console: Console, browser: Browser) -> None:
    sent(browser, "/console/users", "/console/users/make", {"name": "ann"}, "The user is there")
    sent(browser, "/console/users", "/console/users/ann/change", {"disabled": "yes"})
    assert console.api("GET", "/v1/users/ann")["disabled"]
    sent(browser, "/console/users", "/console/users/ann/change", {"is_admin": "yes"})
    sent(browser, "/console/users", "/console/users/ann/change", {"disabled": "no", "is_admin": "no"})
    found = console.api("GET", "/v1/users/ann")
    assert not found["disabled"] and not found["is_admin"]


def test_members_come_change_and_go(console: Console, browser: Browser) -> None:
    page = f"{P}/settings"
    console.api("POST", "/v1/users", {"name": "bob"})
    sent(browser, page, f"{page}/members", {"user": "bob", "role": "viewer", "etag": ""})
    sent(browser, page, f"{page}/members", {"user": "bob", "role": "operator", "etag": ""})
    roles = {one["user"]: one["role"] for one in console.api("GET", "/v1/projects/default/members")["items"]}
    assert roles["bob"] == "operator"
    sent(browser, page, f"{page}/members/remove", {"user": "bob"})
    browser.get(page)
    assert browser.post(f"{page}/members/remove", {"user": "admin"}).status_code == 409
    assert "would have no admin" in browser.text


def test_projects_are_made_and_removed_and_followed(console: Console, browser: Browser) -> None:
    sent(browser, "/console/projects", "/console/projects/make", {"name": "second"}, "The project is there")
    # The pages that are of no project go on with the one looked at last.
    browser.get("/console/nodes")
    assert 'href="/console/p/second"' in browser.page and "Project second" in browser.text
    page = "/console/p/second/settings"
    sent(browser, page, f"{page}/change", {"description": "mine"})
    browser.get(page)
    assert browser.post(f"{page}/remove", {"name": "default"}).status_code == 400
    sent(browser, page, f"{page}/remove", {"name": "second"}, "The project is removed")


def test_who_is_in_no_project_is_told_what_to_do(console: Console) -> None:
    guest = console.browser(console.api.user("lonely"))
    assert "You are in no project" in guest.text and "lonely" in guest.text
    assert guest.get("/console/nodes").status_code == 403


def test_labels_of_a_node_are_changed_by_administrators_alone(console: Console, browser: Browser) -> None:
    sent(browser, "/console/nodes", "/console/nodes/test-node/labels", {"labels": "rack=7"})
    assert console.api("GET", "/v1/nodes/test-node")["labels"] == {"rack": "7"}
    reader = console.browser(console.api.user("looker", default="viewer"))
    assert reader.get("/console/nodes").status_code == 200 and "Labels and removal" not in reader.text


# -- lists and empty places


def test_a_list_longer_than_a_page_goes_on(console: Console, browser: Browser) -> None:
    for number in range(60):
        console.api("POST", "/v1/projects/default/models", {"name": f"many-{number:02}"})
    browser.get(f"{P}/models?prefix=many-")
    assert "many-00" in browser.text and "many-59" not in browser.text
    following = re.search(r'href="([^"]*cursor[^"]*)"', browser.page)
    assert following is not None
    browser.get(following[1].replace("&amp;", "&"))
    assert "many-59" in browser.text and "many-00" not in browser.text


def test_events_are_filtered_and_read_further_back(console: Console, browser: Browser) -> None:
    browser.get(f"{P}/events")
    first = re.findall(r'id="event-(\d+)"', browser.page)
    assert "blob.keep" not in browser.text and len(first) == 50
    browser.get(f"{P}/events?before={first[-1]}")
    assert int(re.findall(r'id="event-(\d+)"', browser.page)[0]) < int(first[-1])
    browser.get(f"{P}/events?kind=blob&actor=admin&text=blobs")
    assert "blob.keep" in browser.text and "model.make" not in browser.text
    browser.get(f"{P}/events?text=no-such-thing")
    assert "No event is like that" in browser.text


@pytest.mark.parametrize(
    ("path", "words_of_it"),
    [
        ("", "This project is empty"),
        ("/models", "tilth import"),
        ("/endpoints", "tilth push"),
        ("/approvals", "Nothing is waiting"),
        ("/models?prefix=zzz", "No model's name begins with this"),
    ],
)
def test_an_empty_place_says_what_to_do(console: Console, browser: Browser, path: str, words_of_it: str) -> None:
    if not any(one["name"] == "empty" for one in console.api("GET", "/v1/projects")["items"]):
        console.api("POST", "/v1/projects", {"name": "empty"})
    assert browser.get(f"/console/p/empty{path}").status_code == 200
    assert words_of_it in browser.text


def test_a_page_that_is_not_there_is_still_a_page_of_the_console(browser: Browser) -> None:
    for path in ("/console/nothing", f"{P}/models/none", f"{P}/models/m/versions/99", f"{P}/endpoints/e/deploy"):
        assert browser.get(path).status_code == 404 and "Sign out" in browser.text
    assert browser.client.get("/").headers["location"] == "/console"


def test_the_theme_is_kept_and_only_a_theme_is(console: Console) -> None:
    own = console.browser()
    answer = own.post("/console/theme", {"theme": "dark", "next": "/console/account"})
    assert answer.headers["location"] == "/console/account" and 'data-theme="dark"' in own.page
    assert own.post("/console/theme", {"theme": "x onload=1"}).status_code == 400
    own.post("/console/theme", {"theme": "system", "next": "https://evil.example"})
    assert "data-theme" not in own.page


# -- numbers and drawings


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00843, "0.00843"), (1234567, "1,234,567"), (12.345, "12.3"), (9.9996, "10"), (-0.5, "-0.5")],
)
def test_digits_that_mean_nothing_are_not_shown(value: float, text: str) -> None:
    assert words.digits(value) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (words.ms(0.0084), "8.4 \u00b5s"),
        (words.ms(12345), "12.3 s"),
        (words.ms(None), words.NONE),
        (words.size(265_000), "265 kB"),
        (words.size(999), "999 B"),
        (words.small(0.00827), "0.00827"),
        (words.small(1.3e-7), "1.3e-7"),
        (words.small(1e308), "infinite"),
        (words.percent(33.3333), "33.333 %"),
        (words.count(1, "device"), "1 device"),
        (words.count(0, "device"), "0 devices"),
        (words.rate(0.04), "0/s"),
        (words.shape({"dtype": "float32", "shape": ["batch", 64]}), "float32 [batch, 64]"),
    ],
)
def test_numbers_have_their_unit(text: str, found: str) -> None:
    assert text == found


@pytest.mark.parametrize(
    ("iso", "text"),
    [
        (None, "never"),
        ("no time", "never"),
        ("2026-11-27T11:59:58Z", "just now"),
        ("2026-11-27T11:58:00.5Z", "1 min ago"),
        ("2026-11-26T11:00:00Z", "1 day ago"),
        ("2026-10-01T00:00:00Z", "2026-10-01"),
        ("2026-11-27T13:00:00Z", "in 1 h"),
    ],
)
def test_a_time_is_told_as_people_do(iso: str | None, text: str) -> None:
    assert words.ago(iso, datetime(2026, 11, 27, 12, tzinfo=UTC)) == text


def test_a_chart_of_nothing_and_of_one_value_can_be_drawn() -> None:
    assert chart.lines({}, 150).is_empty
    assert chart.lines({"1": [(-1.0, None)]}, 150).is_empty
    assert chart.lines({"1": [(-150.0, 0.0), (0.0, 5.0)]}, 150, "ms").lines[0].path.startswith("M0.0 88.00L1000.0")
    assert chart.spark([], 150) == ""


@pytest.mark.parametrize("most", [1e-9, 0.1, 0.999, 1.0, 3.0, 7.3, 99.9, 12345.0, 1e12])
def test_a_scale_ends_at_a_round_number_that_is_not_below(most: float) -> None:
    top, step = chart.ceiling(most)
    assert top >= most * 0.999 and 2 <= round(top / step) <= 5 and abs(top / step - round(top / step)) < 1e-6


@pytest.mark.parametrize("values", [[0.0], [1.0], [1e-9, 1e3], [3.0, 3.0], [0.0, 1e-7, 0.01], [8.4e-3, 0.0288]])
def test_a_scale_that_grows_tenfold_holds_every_value(values: list[float]) -> None:
    marks = chart.decades(values)
    assert 2 <= len(marks) <= 8 and marks == sorted(set(marks))
    assert all(marks[0] <= one <= marks[-1] for one in values if one)


def test_builds_at_one_place_each_have_a_number_that_can_be_read() -> None:
    same = [chart.Measured(number, 1.0, 1e-7, agrees=True) for number in range(1, 5)]
    drawn = chart.scatter(same, {0.5: "", 2.0: ""}, {1e-8: "", 1e-6: ""})
    assert len({(one.name.dx, one.name.dy) for one in drawn.marks}) == 4


def _endpoint(**more: Any) -> Endpoint:
    told: dict[str, Any] = {"id": "0", "name": "e", "project": "p", "model": "m", "description": "", "deployment": 2}
    told |= {"wanted": Wanted(traffic={"1": 90, "10": 10}, shadow={}), "standing": None, "served_as": "p.e"}
    return Endpoint(**(told | {"created_at": "2026-11-27T00:00:00Z", "etag": '"1"'} | more))


def test_figures_that_are_old_say_nothing_about_the_present() -> None:
    usage = Usage(
        version="1", requests_per_s=5, errors_per_s=1, p50_ms=1, p95_ms=2, p99_ms=3, requests=9, errors=1
    )  # fmt: skip
    point = UsagePoint(at="2026-11-27T12:00:00Z", versions=[usage])
    soon, late = (datetime(2026, 11, 27, 12, minute, 1, tzinfo=UTC) for minute in (0, 1))
    answering = Standing(
        deployment=2, about=2, state="ready", message="", traffic={"1": 100}, shadow={}, versions={}, at=point.at
    )  # fmt: skip
    assert now.now(_endpoint(standing=answering), [point], soon).p95_ms == 2
    assert now.now(_endpoint(), [point], soon).requests_per_s == 5
    assert now.now(_endpoint(), [point], late).requests_per_s is None
    assert [line.name for line in now.charts(_endpoint(), [point], soon).requests.lines] == ["1", "10"]
    assert [one.version for one in now.slices({"10": 10, "9": 90})] == ["9", "10"]


def test_an_endpoint_that_nobody_has_seen_is_not_called_ready() -> None:
    assert now.now(_endpoint(), []).state == "deploying"
    assert now.now(_endpoint(wanted=Wanted(traffic={}, shadow={})), []).state == "empty"


def test_the_command_to_call_an_endpoint_cannot_run_another_one() -> None:
    made = call_example.command("http://h:1", "p.e", [{"name": "$(id)'; id #", "dtype": "string", "shape": ["b", 1]}])
    assert made.count("'") % 2 == 0 and '"instances": [[""]]' in made
    two = [{"name": "'; id #", "dtype": "int64", "shape": ["b"]}, {"name": "y", "dtype": "bool", "shape": None}]
    # Quotation marks of the shell are closed before every one that comes from a name.
    assert """'"'"'; id #": 0""" in call_example.command("http://h:1", "p.e", two)
    assert "..." in call_example.command("http://h:1", "p.e", [{"name": "x", "dtype": "float32", "shape": ["b", 999]}])
    assert "..." in call_example.command("http://h:1", "p.e", [])


@pytest.mark.parametrize("text", ["no sign", "a=1\na=2", "=", "a=1\nb"])
def test_tags_that_cannot_be_told_apart_are_refused(text: str) -> None:
    if text == "=":
        assert order.tags(text) == {"": ""}
        return
    with pytest.raises(InvalidError):
        order.tags(text)


def test_an_event_without_the_details_that_one_expects_can_be_told() -> None:
    strange: dict[str, Any] = {"traffic": "x", "devices": "many", "size_bytes": None, "shadow": {"1": "x"}, "note": ""}
    assert history.told(Event("user:a", "endpoint.deploy", "p", None, strange)).gist == ""
    told = history.told(Event("user:a", "endpoint.deploy", "p/endpoints/e", None, {"traffic": {"2": 10.0}}), "p")
    assert (told.gist, told.subject, told.link) == ("v2 10 %", "endpoints/e", "/console/p/p/endpoints/e")
    assert history.told(Event("system", "x", "a/models/b/aliases/c")).link == "/console/p/a/models/b"
