"""The console against other sites, other projects, other people's sessions, and texts that would be markup."""

import hashlib
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_fixture import BASE, Browser, Console, audit_rows, bundle, in_process, up, wait_for

from tilth.control import access
from tilth.control.console import assets, form, proof, view, words
from tilth.control.console.door import PUBLIC
from tilth.control.console.live import MOST_OF_A_SESSION
from tilth.core.errors import InvalidError

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onfocus=alert(3) {{ 7*7 }}"
REORDER = "invoice\u202egnp.exe\u2066\u200b"
KNOWN_PUBLIC = {
    ("GET", "/"),
    ("GET", "/console/sign-in"),
    ("POST", "/console/sign-in"),
    ("POST", "/console/sign-out"),
    ("POST", "/console/theme"),
    ("GET", "/console/static/{name}"),
}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A control plane with two projects that hold things of the same names."""
    with in_process(tmp_path_factory.mktemp("home")) as made:
        api = made.api
        api("POST", "/v1/projects", {"name": "other"})
        for project in ("default", "other"):
            api("POST", f"/v1/projects/{project}/models", {"name": "m", "approve": ["production"]})
            api.push("m", bundle(), project, aliases=["champion"])
            api("POST", f"/v1/projects/{project}/endpoints", {"name": "e", "model": "m"})
            api("POST", f"/v1/projects/{project}/endpoints/e/deploy", {"version": "1"})
            api("POST", f"/v1/projects/{project}/models/m/versions/1/stage", {"stage": "production"})
        yield made


def filled(path: str, project: str = "default") -> str:
    """Return the path of a route with names of things that are there."""
    values = {"project": project, "model": "m", "version": "1", "endpoint": "e", "node": "test-node", "user": "admin"}
    values |= {"token": "0" * 32, "approval": "0" * 32, "name": "x", "rest:path": "nowhere"}
    return re.sub(r"\{([^}]+)\}", lambda found: values[found[1]], path)


def routes(console: Console, method: str) -> list[Any]:
    """Return the routes of the console that are not for everybody."""
    assert console.plane is not None
    return [one for one in console.plane.console.routes if one.method == method and one.action != PUBLIC]


def pages(console: Console) -> list[str]:
    """Return the paths of all pages that are not streams."""
    return [filled(one.path) for one in routes(console, "GET") if "live" not in one.path]


# -- every route is guarded


def test_a_route_that_the_door_does_not_know_is_caught(console: Console) -> None:
    assert console.plane is not None
    known = {(one.method, one.path) for one in console.plane.console.routes}
    served = [one for one in console.plane.desk.app.routes if getattr(one, "path", "").startswith(("/console", "/"))]
    ours = [one for one in served if one.path == "/" or one.path.startswith("/console")]
    found = {(method, one.path) for one in ours for method in (one.methods or ()) if method != "HEAD"}
    assert found == known


def test_nothing_is_public_but_what_has_to_be(console: Console) -> None:
    assert console.plane is not None
    public = {(one.method, one.path) for one in console.plane.console.routes if one.action == PUBLIC}
    assert public == KNOWN_PUBLIC


def test_every_action_is_one_that_access_knows(console: Console) -> None:
    tables = {*access.IN_PROJECT, *access.EVERYWHERE, *access.ANYWHERE, *access.OWN}
    everything = routes(console, "GET") + routes(console, "POST")
    assert {one.action for one in everything} <= tables
    # What is about a project says so in its path, and the other way round.
    for one in everything:
        assert ("{project}" in one.path) == (one.action in access.IN_PROJECT), one


def test_without_a_session_every_page_leads_to_the_sign_in(console: Console) -> None:
    guest = console.guest()
    for path in pages(console):
        answer = guest.client.get(path)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/console/sign-in"), path
        assert (
            guest.client.get(path, headers={"HX-Request": "true"}).headers["hx-redirect"].startswith("/console/sign-in")
        )


def test_without_a_session_no_stream_begins(console: Console) -> None:
    guest = console.guest()
    streams = [filled(one.path) for one in routes(console, "GET") if "live" in one.path]
    assert len(streams) == 5
    assert [guest.client.get(path).status_code for path in streams] == [401] * len(streams)


def test_without_a_session_no_form_does_anything(console: Console) -> None:
    guest, before = console.guest(), audit_rows(console)
    for one in routes(console, "POST"):
        answer = guest.post(filled(one.path))
        assert answer.status_code == 303 and "/sign-in" in answer.headers["location"], one
    assert audit_rows(console) == before


# -- forms of other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": BASE, "Sec-Fetch-Site": "same-site"},
        {"Origin": BASE.replace("8750", "8751"), "Sec-Fetch-Site": "same-origin"},
        {"Origin": BASE.replace("http:", "https:")},
    ],
)
def test_a_form_of_another_page_is_refused_everywhere(console: Console, headers: dict[str, str]) -> None:
    browser = console.browser()
    before = audit_rows(console)
    assert console.plane is not None
    for one in console.plane.console.routes:
        if one.method == "POST":
            answer = browser.post(filled(one.path), {"token": console.token, "theme": "dark"}, headers=headers)
            assert answer.status_code == 403, (one, answer.status_code)
            assert "set-cookie" not in answer.headers
    assert audit_rows(console) == before


def test_a_form_that_says_nothing_of_its_page_is_refused(console: Console) -> None:
    browser, before = console.browser(), audit_rows(console)
    for one in routes(console, "POST"):
        mark = {"_csrf": proof.mark(browser.client.cookies["tilth_session"])}
        assert browser.client.post(filled(one.path), data=mark).status_code == 403, one
    assert audit_rows(console) == before


@pytest.mark.parametrize("mark", ["", "0" * 64, "\u00e9", "of another session"])
def test_a_form_without_its_mark_is_refused_everywhere(console: Console, mark: str) -> None:
    browser = console.browser()
    if mark == "of another session":
        mark = proof.mark(console.browser().client.cookies["tilth_session"])
    before = audit_rows(console)
    for one in [*routes(console, "POST"), *(one for one in KNOWN_PUBLIC if one[1].endswith(("out", "theme")))]:
        path = filled(one[1] if isinstance(one, tuple) else one.path)
        answer = browser.post(path, {"_csrf": mark, "theme": "dark"})
        assert answer.status_code == 403, one
    assert audit_rows(console) == before


def test_a_mark_cannot_be_made_from_what_the_store_keeps() -> None:
    secret = "tilth_" + "a" * 43
    kept = hashlib.sha256(secret.encode()).hexdigest()
    assert proof.mark(secret) not in (kept, proof.mark(kept))
    assert proof.is_marked(secret, proof.mark(secret)) and not proof.is_marked(secret, proof.mark("tilth_" + "b" * 43))


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain", ""])
def test_a_body_that_is_no_form_is_refused(console: Console, kind: str) -> None:
    browser = console.browser()
    headers = {"Origin": BASE, "Content-Type": kind}
    mark = proof.mark(browser.client.cookies["tilth_session"])
    answer = browser.client.post("/console/projects/make", content=f"_csrf={mark}&name=x", headers=headers)
    assert answer.status_code == 415


def test_a_form_that_is_too_long_is_refused(console: Console) -> None:
    assert console.browser().post("/console/projects/make", {"name": "x" * (form.MOST_BYTES + 1)}).status_code == 413


@pytest.mark.parametrize("data", [b"name=%ff", b"name=\xff", b"&".join(b"a=%d" % one for one in range(400))])
def test_a_form_that_is_not_understood_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidError):
        form.parsed(data)


# -- sessions


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(console: Console) -> None:
    answer = console.guest().post("/console/sign-in", {"token": console.token})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("tilth_session=tilth_")
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "secure" not in cookie and "domain" not in cookie


def test_over_tls_the_cookie_is_of_this_host_alone(console: Console) -> None:
    base = BASE.replace("http:", "https:")
    answer = console.guest(base).post("/console/sign-in", {"token": console.token})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-tilth_session=") and "secure" in cookie.lower() and "domain" not in cookie.lower()
    # The name of plain HTTP says nothing over TLS: a page of plain HTTP could have set it.
    secret = cookie.partition("=")[2].partition(";")[0]
    for name, status in (("tilth_session", 303), ("__Host-tilth_session", 200)):
        headers = {"Cookie": f"{name}={secret}"}
        assert console.client(base).get("/console/account", headers=headers).status_code == status


def test_a_session_that_somebody_planted_is_not_taken_over(console: Console) -> None:
    planted = console.browser().client.cookies["tilth_session"]
    guest = console.guest()
    guest.client.cookies.set("tilth_session", planted)
    answer = guest.post("/console/sign-in", {"token": console.token})
    assert planted not in answer.headers["set-cookie"]
    # The planted one has ended, for whoever knows it.
    thief = console.guest()
    thief.client.cookies.set("tilth_session", planted)
    assert thief.client.get("/console/account").status_code == 303


def test_signing_out_ends_the_session_and_not_the_cookie_alone(console: Console) -> None:
    browser = console.browser()
    secret = browser.client.cookies["tilth_session"]
    assert browser.post("/console/sign-out").status_code == 303
    assert "tilth_session" not in browser.client.cookies
    again = console.guest()
    again.client.cookies.set("tilth_session", secret)
    assert again.client.get("/console/account").status_code == 303


def test_a_session_ends_with_the_token_that_opened_it(console: Console) -> None:
    made = console.api("POST", "/v1/tokens", {"name": "short"})
    browser = console.browser(made["secret"])
    assert browser.client.get("/console/account").status_code == 200
    console.api("DELETE", f"/v1/tokens/{made['id']}")
    assert browser.client.get("/console/account").status_code == 303


def test_a_session_ends_with_its_user(console: Console) -> None:
    browser = console.browser(console.api.user("leaver", default="viewer"))
    assert browser.client.get("/console/p/default").status_code == 200
    console.api("PATCH", "/v1/users/leaver", {"disabled": True})
    assert browser.client.get("/console/p/default").status_code == 303


def test_a_session_of_a_narrow_token_allows_no_more_than_the_token(console: Console) -> None:
    made = console.api("POST", "/v1/tokens", {"name": "narrow", "project": "default", "role": "viewer"})
    browser = console.browser(made["secret"])
    assert browser.get("/console/p/default").status_code == 200
    assert browser.get("/console/p/other").status_code == 404
    assert browser.get("/console/users").status_code == 403
    assert browser.post("/console/p/default/endpoints/e/remove", {"name": "e"}).status_code == 403


@pytest.mark.parametrize("token", ["", "x", "tilth_" + "a" * 43, MARKUP, "tilth_" + "a" * 43 + "\x00", "a" * 60000])
def test_what_is_no_token_signs_nobody_in(console: Console, token: str) -> None:
    answer = console.guest().post("/console/sign-in", {"token": token})
    assert answer.status_code in (400, 401) and "set-cookie" not in answer.headers
    assert "<script>alert" not in answer.text


def test_the_cookie_opens_nothing_but_the_console(console: Console) -> None:
    browser = console.browser()
    for path in ("/v1/me", "/v1/projects", "/v1/projects/default/models", "/v1/openapi.json"):
        assert browser.client.get(path).status_code == 401
    answer = browser.client.post("/v1/projects", json={"name": "forged"}, headers={"Origin": BASE})
    assert answer.status_code == 401


def test_a_token_opens_no_page_of_the_console(console: Console) -> None:
    headers = {"Authorization": f"Bearer {console.token}"}
    for path in pages(console):
        assert console.client().get(path, headers=headers).status_code == 303


# -- other projects


def test_another_projects_things_are_not_there(console: Console) -> None:
    browser = console.browser(console.api.user("insider", default="admin"))
    for one in routes(console, "GET"):
        if "{project}" in one.path:
            theirs = browser.client.get(filled(one.path, "other"))
            nothing = browser.client.get(filled(one.path, "nowhere"))
            assert theirs.status_code == nothing.status_code == 404, one
            assert theirs.text.replace("other", "nowhere") == nothing.text.replace("other", "nowhere")


def test_another_projects_forms_are_not_there(console: Console) -> None:
    browser, before = console.browser(console.api.user("insider2", default="admin")), audit_rows(console)
    browser.get("/console/p/default")
    for one in routes(console, "POST"):
        if "{project}" in one.path:
            assert browser.post(filled(one.path, "other"), {"name": "e"}).status_code == 404, one
            browser.get("/console/p/default")
    assert audit_rows(console)[len(before) :] == []


def test_an_approval_of_another_project_is_not_there(console: Console) -> None:
    theirs = console.api("GET", "/v1/projects/other/approvals?state=waiting")["items"][0]["id"]
    browser = console.browser(console.api.user("insider3", default="admin"))
    browser.get("/console/p/default/approvals")
    there = browser.post(f"/console/p/default/approvals/{theirs}", {"say": "accept"})
    browser.get("/console/p/default/approvals")
    nothing = browser.post(f"/console/p/default/approvals/{'0' * 32}", {"say": "accept"})
    assert there.status_code == nothing.status_code == 404
    assert there.text.replace(theirs, "0" * 32) == nothing.text
    assert console.api("GET", f"/v1/projects/other/approvals/{theirs}")["state"] == "waiting"


@pytest.mark.parametrize("role", ["viewer", "developer", "operator", "admin"])
def test_a_form_does_what_a_role_may_and_no_more(console: Console, role: str) -> None:
    browser = console.browser(console.api.user(f"as-{role}", default=role))
    for one in routes(console, "POST"):
        if one.action not in access.IN_PROJECT or one.path.endswith("/remove"):
            continue
        allowed = access.ROLES.index(role) >= access.ROLES.index(access.IN_PROJECT[one.action])  # type: ignore[arg-type]
        browser.get("/console/p/default")
        answer = browser.post(filled(one.path), {"alias": "-", "role": "-", "stage": "-", "number": "-", "tags": "-"})
        assert (answer.status_code != 403) == allowed, (one, answer.status_code)


def test_a_page_offers_no_form_that_would_be_refused(console: Console) -> None:
    browser = console.browser(console.api.user("reader", default="viewer"))
    own = {"/console/theme", "/console/sign-out", "/console/account/tokens"}
    for path in pages(console):
        browser.get(path)
        forms = set(re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', browser.page))
        forms = {one for one in forms if not re.fullmatch(r"/console/account/tokens/\w+/revoke", one)}
        assert forms <= own, path


# -- texts that would be markup


class Marks(HTMLParser):
    """Reads a page as a browser does, and notes the marks that no page of the console has."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []

    @classmethod
    def of(cls, page: str) -> "Marks":
        """Return what was found on a page."""
        made = cls()
        made.feed(page)
        return made

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note scripts and pictures that are not ours, and attributes that would run or style something."""
        given = dict(attrs)
        if tag in ("script", "img") and not (given.get("src") or "").startswith("/console/static/"):
            self.foreign.append(f"{tag} {given}")
        if tag in ("style", "iframe", "object", "embed", "base"):
            self.foreign.append(tag)
        self.foreign += [f"{tag} {name}" for name in given if name.startswith("on") or name == "style"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A control plane in which every free text is markup, reorders what is around it, or is long."""
    long = "w" * 4096
    with in_process(tmp_path_factory.mktemp("hostile")) as made:
        api = made.api
        told = {"description": MARKUP, "tags": {"one": MARKUP, "two": REORDER, "three": "w" * 1024}}
        api("POST", "/v1/projects", {"name": "texts", "description": MARKUP})
        api("POST", "/v1/projects/default/models", {"name": "m", "approve": ["production"]} | told)
        api("POST", "/v1/projects/default/models", {"name": "a" * 64, "description": long})
        lineage = {"run": MARKUP, "data": [MARKUP, REORDER], "parent": MARKUP, "code": MARKUP}
        api.push("m", bundle(name=MARKUP, reason=MARKUP), lineage=lineage, **told)
        api.push("m", bundle(2.0), description=long)
        api("POST", "/v1/projects/default/endpoints", {"name": "e", "model": "m", "description": REORDER + MARKUP})
        for version in ("1", "2"):
            order = {"version": version, "traffic": 50, "note": MARKUP}
            api("POST", "/v1/projects/default/endpoints/e/deploy", order)
        api("POST", "/v1/projects/default/models/m/versions/1/stage", {"stage": "production", "note": MARKUP})
        labels = {"rack": MARKUP}
        devices = [{"name": MARKUP[:60], "target": "cpu-x", "facts": {"name": MARKUP, "cores": "<b>"}}]
        api("POST", "/v1/nodes", {"name": "n", "labels": labels, "devices": devices})
        yield made


def test_no_text_becomes_markup_on_any_page(hostile: Console) -> None:
    browser = hostile.browser()
    seen = 0
    for path in pages(hostile):
        browser.get(path)
        assert Marks.of(browser.page).foreign == [], path
        seen += "<script>alert(1)</script>" in browser.text
    assert seen >= 8


def test_a_stream_of_a_control_plane_that_stops_ends(hostile: Console) -> None:
    browser = hostile.browser()
    assert hostile.plane is not None
    hostile.plane.ready = False
    try:
        for one in routes(hostile, "GET"):
            if "live" in one.path:
                assert browser.client.get(filled(one.path)).text == "retry: 2000\n\n"
    finally:
        hostile.plane.ready = True


def test_a_template_is_not_run_out_of_a_text(hostile: Console) -> None:
    browser = hostile.browser()
    browser.get("/console/p/default/models/m")
    assert "{{ 7*7 }}" in browser.text and "49" not in browser.text


def test_characters_that_hide_or_reorder_are_spelled_out(hostile: Console) -> None:
    browser = hostile.browser()
    for path in pages(hostile):
        browser.get(path)
        # What is there to be changed is there as it is.
        shown = re.sub(r'<textarea.*?</textarea>|value="[^"]*"', "", browser.page, flags=re.DOTALL)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", shown), path
    browser.get("/console/p/default/models/m")
    assert "invoice<U+202E>gnp.exe" in browser.text


def test_a_text_in_an_address_stays_in_its_place() -> None:
    assert words.at("p", "a/b?c#d", "..", q='"><script>') == "/console/p/a%2Fb%3Fc%23d/..?q=%22%3E%3Cscript%3E"


@pytest.mark.parametrize(
    "path",
    [
        "/console/p/default/models?prefix=" + "%3Cscript%3Ealert(1)%3C/script%3E",
        "/console/p/default/events?text=%22%3E%3Cscript%3Ealert(1)&actor=%3Cscript%3Ealert(1)&kind=%3Cscript%3E",
        "/console/account?user=%22%3E%3Cscript%3Ealert(1)",
        "/console/p/default?done=%3Cscript%3Ealert(1)",
        "/console/p/default/approvals?state=%3Cscript%3Ealert(1)",
        "/console/p/default/models/%3Cscript%3Ealert(1)",
        "/console/p/default/endpoints/e?cursor=%3Cscript%3Ealert(1)",
        "/console/p/%3Cscript%3Ealert(1)",
        "/console/%3Cscript%3Ealert(1)",
        "/console/sign-in?next=%22%3E%3Cscript%3Ealert(1)",
    ],
)
def test_what_an_address_says_is_not_markup(hostile: Console, path: str) -> None:
    for browser in (hostile.browser(), hostile.guest()):
        assert "<script>alert" not in browser.client.get(path, follow_redirects=True).text


def test_what_a_form_says_is_shown_as_text_when_it_is_refused(hostile: Console) -> None:
    browser = hostile.browser()
    browser.get("/console/p/default/models")
    answer = browser.post("/console/p/default/models/make", {"name": MARKUP, "description": MARKUP})
    assert answer.status_code == 400 and "<script>alert" not in answer.text and "<script>alert(1)" in browser.text
    for name in ("name", "user"):
        browser.get("/console/account")
        answer = browser.post("/console/account/tokens", {"name": "x", "lasts": "day"} | {name: MARKUP})
        assert answer.status_code in (400, 404) and "<script>alert" not in answer.text


def test_headers_and_cookies_are_not_shown(hostile: Console) -> None:
    browser = hostile.browser()
    headers = {"User-Agent": MARKUP, "Referer": MARKUP, "Accept-Language": MARKUP, "HX-Current-URL": MARKUP}
    for name in ("tilth_theme", "tilth_project"):
        browser.client.cookies.set(name, "x\u0022><script>alert(1)".replace(";", ""))
    for path in pages(hostile):
        text = browser.client.get(path, headers=headers).text
        assert "alert(1)</script>" not in text and 'data-theme="x' not in text


@pytest.mark.parametrize("name", sorted(path.name for path in (Path(view.__file__).parent / "templates").iterdir()))
def test_a_template_that_turns_escaping_off_or_has_a_script_in_it_is_caught(name: str) -> None:
    text = (Path(view.__file__).parent / "templates" / name).read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe|autoescape|Markup|\sstyle=|<style|javascript:", text)
    assert not re.search(r"<[a-z][^>{]*\son[a-z]+=", text)
    assert re.findall(r"<script(?! src=\"\{\{ asset\[)", text) == []


# -- what every answer carries


def test_every_page_forbids_what_is_not_its_own(console: Console) -> None:
    browser, guest = console.browser(), console.guest()
    addresses = [one.address for one in assets.load().values()]
    for client, paths in (
        (browser.client, [*pages(console), *addresses]),
        (guest.client, ["/", "/console/sign-in", *addresses]),
    ):
        for path in paths:
            answer = client.get(path)
            assert answer.headers["content-security-policy"] == view.CSP, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in view.CSP and "unsafe" not in view.CSP
            if path not in addresses:
                assert answer.headers["cache-control"] == "no-store"


def test_a_page_names_no_other_host(console: Console) -> None:
    browser = console.browser()
    for path in pages(console):
        browser.get(path)
        for found in re.findall(r'(?:src|href|action|hx-get|data-live)="([^"]*)"', browser.page):
            assert found.startswith(("/console", "#")), (path, found)


@pytest.mark.parametrize(
    "name",
    ["console.css", "../view.py", "..%2fview.py", "%2e%2e/view.py", "icon.svg.bak", "THIRD-PARTY.md", "", "x" * 300],
)
def test_a_file_that_is_not_listed_is_not_there(console: Console, name: str) -> None:
    assert console.client().get(f"/console/static/{name}").status_code in (303, 403, 404)


def test_static_files_are_kept_for_ever_under_the_hash_of_their_content(console: Console) -> None:
    for one in assets.load().values():
        answer = console.client().get(one.address)
        assert answer.content == one.body and "immutable" in answer.headers["cache-control"]
        assert hashlib.sha256(one.body).hexdigest()[:16] in one.address


def test_files_of_others_are_what_their_list_says() -> None:
    folder = Path(assets.__file__).parent / "static" / "vendor"
    listed = dict(re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", (folder / "THIRD-PARTY.md").read_text(), re.M))
    files = [path for path in folder.iterdir() if path.name != "THIRD-PARTY.md"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == listed


# -- where to go next


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/console\\..\\evil",
        "/console//evil.example",
        "/console/../v1/me",
        "/consolex",
        "javascript:alert(1)",
        "/console/\r\nSet-Cookie: x=1",
        "/console/\u2028x",
        "/console/" + "a" * 3000,
        "/v1/me",
    ],
)
def test_nobody_is_sent_to_another_place(console: Console, to: str) -> None:
    assert proof.own_path(to) == "/console"
    answer = console.guest().post("/console/sign-in", {"token": console.token, "next": to})
    assert answer.headers["location"] == "/console"


def test_after_signing_in_one_is_where_one_wanted_to_be(console: Console) -> None:
    guest = console.guest()
    away = guest.client.get("/console/p/default/events?kind=model").headers["location"]
    guest.get(away)
    found = re.search(r'name="next" value="([^"]*)"', guest.page)
    assert found is not None
    answer = guest.post("/console/sign-in", {"token": console.token, "next": found[1]})
    assert answer.headers["location"] == "/console/p/default/events?kind=model"


# -- streams, against a real process


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A real control plane."""
    with up(tmp_path_factory.mktemp("up")) as made:
        yield made


class Stream:
    """A stream that is read in a thread, until it ends."""

    def __init__(self, browser: Browser, path: str) -> None:
        self.lines: list[str] = []
        self.status = 0
        self._browser, self._path = browser, path
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for(lambda: self.status)

    def _read(self) -> None:
        cookies = dict(self._browser.client.cookies)
        with httpx.Client(base_url=self._browser.client.base_url, cookies=cookies, timeout=30) as client:
            with client.stream("GET", self._path) as answer:
                self.status = answer.status_code
                for line in answer.iter_lines():
                    self.lines.append(line)

    @property
    def ended(self) -> bool:
        """Whether the server has ended it."""
        return not self._thread.is_alive()


def test_a_stream_tells_what_happens_and_ends_when_its_session_does(running: Console) -> None:
    browser = running.browser()
    stream = Stream(browser, "/console/p/default/events/live?after=0")
    running.api("POST", "/v1/projects/default/models", {"name": "told"})
    wait_for(lambda: any("models/told" in line for line in stream.lines))
    order = {"name": "marked", "description": MARKUP}
    running.api("POST", "/v1/projects/default/models", order)
    running.api("PATCH", "/v1/projects/default/models/marked", {"tags": {"x": MARKUP}})
    wait_for(lambda: any("model.change" in line for line in stream.lines))
    told = "".join(line.removeprefix("data: ") for line in stream.lines)
    assert "&lt;script&gt;" in told and Marks.of(told).foreign == []
    browser.post("/console/sign-out")
    wait_for(lambda: stream.ended)
    assert stream.lines[-3:] == ["event: end", "data: signed-out", ""]


def test_a_stream_ends_when_the_role_is_another(running: Console) -> None:
    browser = running.browser(running.api.user("changing", default="operator"))
    stream = Stream(browser, "/console/p/default/live")
    wait_for(lambda: any("tiles" in line for line in stream.lines))
    running.api("PUT", "/v1/projects/default/members/changing", {"role": "viewer"})
    wait_for(lambda: stream.ended)
    assert "data: role" in stream.lines
    again = Stream(browser, "/console/p/default/live")
    running.api("DELETE", "/v1/projects/default/members/changing")
    wait_for(lambda: again.ended)
    assert "data: gone" in again.lines


def test_a_session_that_follows_with_too_many_pages_is_told_so_and_gets_its_places_back(running: Console) -> None:
    browser = running.browser()
    streams = [Stream(browser, "/console/p/default/live") for _ in range(MOST_OF_A_SESSION)]
    assert [one.status for one in streams] == [200] * MOST_OF_A_SESSION
    assert Stream(browser, "/console/p/default/live").status == 503
    # Another session has places of its own.
    other = running.browser()
    assert Stream(other, "/console/p/default/live").status == 200
    other.post("/console/sign-out")
    browser.post("/console/sign-out")
    wait_for(lambda: all(one.ended for one in streams))


def test_a_reader_that_goes_away_gives_its_place_back(running: Console) -> None:
    browser = running.browser()
    cookies = dict(browser.client.cookies)
    with httpx.Client(base_url=running.base, cookies=cookies, timeout=30) as client:
        for _ in range(MOST_OF_A_SESSION + 4):
            with client.stream("GET", "/console/p/default/live") as answer:
                next(answer.iter_lines())
    # The server learns of it a moment later.
    wait_for(lambda: Stream(browser, "/console/p/default/live").status == 200)
