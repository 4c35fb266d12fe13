"""The console in a real browser: clicks, keys, no scripts, in the dark, on a phone, and against texts of others."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from console_fixture import PATIENCE_S, Console, bundle, up, wait_for

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Whatever it would ask of another host ends here.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onfocus=alert(3) autofocus"
P = "/console/p/default"
PAGES = (
    P,
    f"{P}/endpoints",
    f"{P}/endpoints/e",
    f"{P}/models",
    f"{P}/models/m",
    f"{P}/models/m/versions/1",
    f"{P}/approvals?state=all",
    f"{P}/events",
    f"{P}/settings",
    "/console/nodes",
    "/console/projects",
    "/console/users",
    "/console/events",
    "/console/account",
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (apt-get install chromium)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A control plane that serves version 1 of a model, with texts that would like to be markup."""
    with up(tmp_path_factory.mktemp("up")) as made:
        api = made.api
        told = {"description": MARKUP, "tags": {"text": MARKUP, "long": "w" * 1024}}
        api("POST", "/v1/projects/default/models", {"name": "m", "approve": ["production"]} | told)
        for scale in (1.0, 2.0, 3.0):
            api.push("m", bundle(scale, name=MARKUP, reason=MARKUP), description="x" * 4096, lineage={"run": MARKUP})
        api("POST", "/v1/projects/default/models", {"name": "other-" + "n" * 58})
        api("POST", "/v1/projects/default/endpoints", {"name": "e", "model": "m", "description": "\u202e" + MARKUP})
        api("POST", "/v1/projects/default/endpoints/e/deploy", {"version": "1", "note": MARKUP})
        api("POST", "/v1/projects/default/models/m/versions/2/stage", {"stage": "production", "note": MARKUP})
        wait_for(lambda: state(made) == "ready")
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser with nothing in it."""
    with playwright.sync_playwright() as made:
        browser = made.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def state(console: Console, endpoint: str = "e") -> str:
    """Return the state of an endpoint."""
    standing = console.api("GET", f"/v1/projects/default/endpoints/{endpoint}")["standing"]
    return str(standing["state"]) if standing else ""


def wanted(console: Console, endpoint: str = "e") -> Any:
    """Return what is wanted of an endpoint."""
    return console.api("GET", f"/v1/projects/default/endpoints/{endpoint}")["wanted"]


@dataclass
class Tab:
    """A page of a browser of its own, and everything that went wrong in it."""

    console: Console
    page: Any
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_S * 1e3)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._asked)
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) => console.error("
            "`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"
        )

    def _said(self, message: Any) -> None:
        # That a page answers 4xx to a form is what some of the tests want.
        if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
            self.wrong.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.console.base, "data:")):
            self.wrong.append(f"asked for {request.url}")

    def go(self, path: str) -> "Tab":
        """Load a page."""
        self.page.goto(self.console.base + path)
        return self

    def sign_in(self, token: str = "") -> "Tab":
        """Sign in as a person does."""
        self.go("/console/sign-in")
        self.page.get_by_label("Token").fill(token or self.console.token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/console/p/**")
        return self

    @property
    def too_wide(self) -> bool:
        """Whether the page has to be moved sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@pytest.fixture
def tab(console: Console, chromium: Any) -> Iterator[Tab]:
    """A fresh profile; nothing may have gone wrong in it at the end."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    made = Tab(console, context.new_page())
    yield made
    context.close()
    assert made.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_no_page_breaks_its_own_rules_or_has_to_be_moved_sideways(
    console: Console, chromium: Any, scheme: str, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)
    made = Tab(console, context.new_page()).sign_in()
    for path in PAGES:
        made.go(path)
        if made.page.locator("[data-live]").count():
            made.page.locator("[data-live-mark]:visible").wait_for()
        assert not made.too_wide, path
        for one in made.page.locator("details").all():
            one.evaluate("(element) => { element.open = true; }")
        assert not made.too_wide, f"{path} with everything opened"
        ground = made.page.evaluate("getComputedStyle(document.querySelector('.card, .tiles')).backgroundColor")
        dark = sum(int(part) for part in re.findall(r"\d+", ground)[:3]) < 200
        assert dark == (scheme == "dark"), path
    context.close()
    assert made.wrong == []


def test_texts_of_others_are_read_and_not_run(tab: Tab) -> None:
    tab.sign_in().go(f"{P}/models/m")
    assert MARKUP in tab.page.locator(".about").inner_text()
    tab.go(f"{P}/models/m/versions/1")
    assert "<script>alert(1)</script>" in tab.page.locator(".candidates").inner_text()
    assert MARKUP in tab.page.locator("#h-lineage + dl").inner_text()
    tab.go(f"{P}/endpoints/e")
    assert "<U+202E>" in tab.page.locator(".about").inner_text()
    # The same in what comes later: live rows, and a form that is refused.
    tab.go(f"{P}/events")
    tab.page.locator("[data-live-mark]:visible").wait_for()
    tab.console.api("PATCH", "/v1/projects/default/models/m", {"description": MARKUP})
    tab.page.locator("#event-list tr", has_text="model.change").first.wait_for()
    tab.page.locator("#event-list tr", has_text="model.change").first.locator("summary").click()
    assert "<script>alert(1)</script>" in tab.page.locator("#event-list tr pre").first.inner_text()
    tab.go("/console/account")
    tab.page.get_by_label("Name").fill(MARKUP[:60])
    tab.page.get_by_role("button", name="Make token").click()
    tab.page.get_by_role("alert").wait_for()
    assert tab.page.get_by_label("Name").input_value() == MARKUP[:60]
    assert "<script>" in tab.page.get_by_role("alert").inner_text()


def test_a_deployment_is_watched_shifted_and_rolled_back(tab: Tab) -> None:
    tab.sign_in()
    tab.page.get_by_role("link", name="Endpoints", exact=True).click()
    tab.page.get_by_role("rowheader").get_by_role("link", name="e", exact=True).click()
    tab.page.get_by_role("combobox", name="Version").select_option("2")
    tab.page.get_by_label("Share of the requests").fill("20")
    tab.page.get_by_label("Note").first.fill("a second one beside it")
    tab.page.get_by_role("button", name="Deploy").click()
    tab.page.get_by_role("status").get_by_text("on its way").wait_for()
    playwright.expect(tab.page).to_have_url(re.compile(r"/endpoints/e$"), timeout=PATIENCE_S * 1e3)
    assert wanted(tab.console)["traffic"] == {"1": 80.0, "2": 20.0}
    # What answers comes by itself.
    tab.page.locator("#endpoint-versions tr", has_text="v2").get_by_text("ready").wait_for()
    call(tab.console, 60)
    playwright.expect(tab.page.locator(".standing-number b").first).not_to_have_text("0/s", timeout=PATIENCE_S * 1e3)
    tab.page.locator("#endpoint-charts .line").first.wait_for(state="attached")
    tab.page.locator(".plot").first.hover()
    tab.page.locator(".chart-told:visible").get_by_text("v1").wait_for()
    shift = tab.page.locator("form.shift", has_text="v2")
    shift.get_by_role("spinbutton").fill("50")
    shift.get_by_role("button", name="Shift").click()
    tab.page.get_by_role("status").get_by_text("being shifted").wait_for()
    assert wanted(tab.console)["traffic"] == {"1": 50.0, "2": 50.0}
    # Rolling back asks first, and no is an answer.
    tab.page.get_by_role("button", name="Roll back").click()
    dialog = tab.page.get_by_role("dialog", name="Roll back e?")
    dialog.wait_for()
    dialog.get_by_role("button", name="Cancel").click()
    dialog.wait_for(state="hidden")
    tab.page.get_by_role("button", name="Roll back").click()
    tab.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert wanted(tab.console)["traffic"] == {"1": 50.0, "2": 50.0}
    tab.page.get_by_role("row", name=re.compile("v1 100")).get_by_role("button", name="Go back to it").click()
    assert dialog.get_by_label("Back to").input_value() == "1"
    dialog.get_by_label("Note").fill("not good enough")
    dialog.get_by_role("button", name="Roll back").click()
    tab.page.get_by_role("status").get_by_text("goes back").wait_for()
    assert wanted(tab.console)["traffic"] == {"1": 100.0}
    assert tab.page.get_by_text("not good enough").count() == 1


def call(console: Console, times: int) -> None:
    """Call the endpoint."""
    serving = console.api("GET", "/v1/me")["serving"]
    with httpx.Client(headers={"Authorization": f"Bearer {console.token}"}, timeout=PATIENCE_S) as client:
        for _ in range(times):
            body = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
            assert client.post(f"{serving}/v1/models/default.e:predict", json=body).is_success


def test_a_refused_form_keeps_what_was_typed_and_says_why(tab: Tab) -> None:
    tab.sign_in().go(f"{P}/endpoints")
    tab.page.get_by_label("Name").fill("Not A Name")
    tab.page.get_by_label("Description").fill("kept")
    tab.page.get_by_role("button", name="Make endpoint").click()
    tab.page.get_by_role("alert").get_by_text("is no name of").wait_for()
    assert tab.page.get_by_label("Description").input_value() == "kept"
    assert tab.page.url.endswith("/endpoints")
    # It has the focus, so that a reader of screens reads it out.
    assert tab.page.evaluate("document.activeElement.getAttribute('role')") == "alert"


def test_a_token_is_made_shown_once_and_revoked(tab: Tab) -> None:
    tab.sign_in()
    tab.page.get_by_role("link", name="Your tokens").click()
    tab.page.get_by_label("Name").fill("from a browser")
    tab.page.get_by_role("button", name="Make token").click()
    secret = tab.page.get_by_text(re.compile("^tilth_")).inner_text()
    assert tab.console.client().get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).is_success
    tab.page.get_by_role("button", name="Copy").wait_for()
    tab.page.get_by_role("link", name="I have copied it").click()
    tab.page.get_by_role("row", name="from a browser").get_by_role("button", name="Revoke").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    tab.page.get_by_role("status").get_by_text("is revoked").wait_for()
    for _ in range(3):
        playwright.expect(tab.page.locator("body")).not_to_contain_text(secret)
        tab.page.go_back()
        tab.page.get_by_role("link", name="Your tokens").wait_for()
    assert tab.console.client().get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_a_list_is_narrowed_while_one_types(tab: Tab) -> None:
    tab.sign_in().go(f"{P}/models")
    tab.page.get_by_label("Name begins with").press_sequentially("other")
    tab.page.locator("#list tr", has_text="other-").wait_for()
    playwright.expect(tab.page.locator("#list tbody tr")).to_have_count(1)
    assert tab.page.url.endswith("prefix=other")
    assert tab.page.evaluate("document.activeElement.name") == "prefix"
    tab.page.reload()
    assert tab.page.locator("#list tbody tr").count() == 1


def test_the_theme_that_one_chooses_stays(tab: Tab) -> None:
    tab.sign_in().go(f"{P}/models")
    tab.page.get_by_role("button", name="Dark").click()
    tab.page.wait_for_url(f"**{P}/models")
    ground = "getComputedStyle(document.body).colorScheme + getComputedStyle(document.documentElement).colorScheme"
    assert "dark" in tab.page.evaluate(ground)
    tab.go("/console/nodes")
    assert tab.page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"


def test_who_is_signed_out_elsewhere_is_told_so(tab: Tab) -> None:
    made = tab.console.api("POST", "/v1/tokens", {"name": "short lived"})
    tab.sign_in(made["secret"]).page.locator("[data-live-mark]:visible").wait_for()
    tab.console.api("DELETE", f"/v1/tokens/{made['id']}")
    tab.page.get_by_text("You are signed out").wait_for()
    assert tab.page.locator("[data-live-mark]:visible").count() == 0
    tab.page.get_by_role("link", name="Models", exact=True).click()
    tab.page.get_by_role("button", name="Sign in").wait_for()


def test_a_form_sent_after_signing_out_leads_to_the_sign_in(tab: Tab) -> None:
    made = tab.console.api("POST", "/v1/tokens", {"name": "short lived"})
    tab.sign_in(made["secret"]).go(f"{P}/endpoints")
    tab.console.api("DELETE", f"/v1/tokens/{made['id']}")
    tab.page.get_by_label("Name").fill("late")
    tab.page.get_by_role("button", name="Make endpoint").click()
    tab.page.get_by_role("button", name="Sign in").wait_for()


def test_what_somebody_else_deploys_is_seen_before_one_overwrites_it(tab: Tab) -> None:
    tab.console.api("POST", "/v1/projects/default/endpoints", {"name": "shared", "model": "m"})
    tab.console.api("POST", "/v1/projects/default/endpoints/shared/deploy", {"version": "1"})
    tab.sign_in().go(f"{P}/endpoints/shared")
    tab.page.locator("[data-live-mark]:visible").wait_for()
    tab.console.api("POST", "/v1/projects/default/endpoints/shared/deploy", {"version": "2", "traffic": 10})
    tab.page.get_by_text("the forms below are about deployment 1").wait_for()
    tab.page.get_by_role("button", name="Deploy").click()
    tab.page.get_by_role("alert").get_by_text("it was changed meanwhile").wait_for()


# -- by keys alone


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until an element that fits has the focus, and check that one sees where it is."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            seen = (
                "const found = getComputedStyle(document.activeElement); return found.outlineStyle + found.outlineWidth"
            )
            assert page.evaluate(f"() => {{ {seen} }}") == "solid2px", selector
            return
    raise AssertionError(f"no key leads to {selector}")


def test_one_deploys_by_keys_alone(tab: Tab) -> None:
    tab.go("/console/sign-in")
    # The field has the focus already.
    tab.page.keyboard.type(tab.console.token)
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/console/p/**")
    tab_to(tab.page, ".skip")
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"
    tab_to(tab.page, f'a[href="{P}/endpoints/e"]')
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/endpoints/e")
    before = tab.console.api("GET", "/v1/projects/default/endpoints/e")["deployment"]
    tab_to(tab.page, 'form[action$="/deploy"] select[name="version"]')
    tab.page.keyboard.type("v3")
    tab_to(tab.page, 'form[action$="/deploy"] input[name="share"]')
    tab.page.keyboard.press("Control+a")
    tab.page.keyboard.type("30")
    tab_to(tab.page, 'form[action$="/deploy"] button')
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("status").get_by_text("on its way").wait_for()
    found = tab.console.api("GET", "/v1/projects/default/endpoints/e")
    assert found["deployment"] == before + 1 and found["wanted"]["traffic"]["3"] == 30.0
    # And back, through the dialog, which keeps the focus inside while it is open.
    tab_to(tab.page, 'button[data-opens="dialog-rollback"]')
    tab.page.keyboard.press("Enter")
    tab_to(tab.page, "dialog button.danger")
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("status").get_by_text("goes back").wait_for()
    assert "3" not in wanted(tab.console)["traffic"]


# -- without scripts


def test_without_scripts_one_signs_in_deploys_and_rolls_back(console: Console, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1e3)
    page.goto(f"{console.base}/console/p/default/endpoints/e")
    page.get_by_label("Token").fill(console.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/endpoints/e")
    deploy = page.locator('form[action$="/deploy"]')
    deploy.get_by_label("Version").select_option("3")
    deploy.get_by_label("Share of the requests").fill("25")
    deploy.get_by_role("button", name="Deploy").click()
    page.get_by_role("status").get_by_text("on its way").wait_for()
    assert wanted(console)["traffic"]["3"] == 25.0
    # The dialog stands on the page, and what would open it is not there.
    assert page.locator(".needs-script:visible").count() == 0
    page.locator("#dialog-rollback").get_by_role("button", name="Roll back").click()
    page.get_by_role("status").get_by_text("goes back").wait_for()
    assert "3" not in wanted(console)["traffic"]
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    context.close()
