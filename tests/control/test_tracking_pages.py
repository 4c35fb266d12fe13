"""MLflow's pages in a real browser: they work with a session, and a page that somebody has logged runs nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_here import PYTHON, needs_mlflow
from plane import Up, until

pytestmark = [needs_mlflow, pytest.mark.slow]
HOSTILE = """<h1 id="shown">a report</h1><script>
document.title = 'run'; parent.document.title = 'run';
fetch('/v1/me').then(r => r.text()).then(t => { parent.document.title = t })</script>"""


@pytest.fixture
def page() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser.new_context().new_page()
        browser.close()


def test_pages_work_with_a_session_and_what_was_logged_runs_nothing(page: Any, tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--tracking", "--tracking-python", PYTHON) as up:
        until(lambda: up.ask("GET", "/mlflow/health").status_code == 200, up.log)
        api = "/mlflow/api/2.0/mlflow"
        run = up.made("POST", f"{api}/runs/create", {"experiment_id": "0", "run_name": "gearbox"})["run"]["info"][
            "run_id"
        ]
        path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/page.html"
        assert up.ask("PUT", path, content=HOSTILE.encode()).status_code == 200
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))

        page.goto(f"{up.address}/mlflow/")
        assert "/console/sign-in" in page.url
        page.fill("input[name=token]", up.secret)
        page.press("input[name=token]", "Enter")
        page.wait_for_url("**/console/p/**")
        page.goto(f"{up.address}/mlflow/#/experiments/0/runs/{run}")
        page.get_by_text("gearbox").first.wait_for()
        told = {"run_id": run, "key": "seen", "value": "yes"}
        assert _sent(page, "ajax-api/2.0/mlflow/runs/set-tag", told) == 200
        assert "violates" not in " ".join(said), said

        # Scripts of its pages ask below /mlflow alone, and those of an artifact do not even run.
        assert _sent(page, "/v1/tokens", {"name": "stolen"}) == 0
        page.goto(f"{up.address}/mlflow/#/experiments/0/runs/{run}/artifacts/page.html")
        page.reload()
        page.frame_locator("iframe").locator("#shown").wait_for()
        assert any("inline script violates" in one for one in said), said
        assert page.title().startswith("Run ") and page.title() != "run"


def _sent(page: Any, where: str, told: dict[str, str]) -> int:
    """Return the status of a request that a script of the page makes, 0 when the browser does not make it."""
    made: int = page.evaluate(
        """([where, told]) => fetch(where, {method: 'POST', headers: {'Content-Type': 'application/json'},
           body: JSON.stringify(told)}).then(answer => answer.status).catch(() => 0)""",
        [where, told],
    )
    return made
