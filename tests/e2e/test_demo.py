"""The main job as `make demo` runs it, without the real models, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_ends_on_a_page_that_shows_the_model_serving(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TILTH_MODELS": str(tmp_path / "none"),
        "TILTH_CACHE": str(tmp_path / "cache"),
        "DISPLAY": "",
    }
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/demo.py")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "same digit as scikit-learn on 100.00% of 360" in done.stdout
        assert "chosen: " in done.stdout
        assert (tmp_path / "out/digits.tilth").is_file()
        assert (tmp_path / "out/token").stat().st_mode & 0o777 == 0o600
        assert done.stdout.rstrip().endswith("tilth down --home out/home")
        shown = page(done.stdout.partition("its page:")[2].split()[0], (tmp_path / "out/token").read_text())
        assert "digits" in shown and "ready" in shown
    finally:
        down = [sys.executable, "-m", "tilth", "down", "--home", str(tmp_path / "out/home")]
        subprocess.run(down, capture_output=True, timeout=120, check=False)


def page(url: str, token: str) -> str:
    """Return what a person sees there who signs in with the token."""
    origin = "/".join(url.split("/")[:3])
    with httpx.Client(base_url=origin, trust_env=False, timeout=60, follow_redirects=True) as browser:
        form = browser.get("/console/sign-in").text
        proof = form.partition('name="proof" value="')[2].partition('"')[0]
        browser.post("/console/sign-in", data={"token": token, "proof": proof}, headers={"Origin": origin})
        answer = browser.get(url)
        assert answer.status_code == 200 and str(answer.url) == url, answer.url
        return answer.text
