"""Pictures of every page of the console: train two models, build, push, deploy a canary, send traffic, and look.

    python examples/console_screenshots.py [--out docs/images/console] [--minutes 2.5]

Needs `pip install 'tilth[demo]' playwright` and a Chromium on this machine. Everything else is in a temporary folder.
"""

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tilth
from tilth.core.digest import digest

P = "/v1/projects/digits-team"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
#: Pages by picture, with the most pixels of each that are kept.
PAGES = {
    "overview": ("/console/p/digits-team", 900),
    "endpoints": ("/console/p/digits-team/endpoints", 560),
    "endpoint": ("/console/p/digits-team/endpoints/digits", 1000),
    "models": ("/console/p/digits-team/models", 700),
    "model": ("/console/p/digits-team/models/digits", 760),
    "version": ("/console/p/digits-team/models/digits/versions/2", 830),
    "approvals": ("/console/p/digits-team/approvals", 480),
    "events": ("/console/p/digits-team/events", 800),
    "members": ("/console/p/digits-team/settings", 560),
    "nodes": ("/console/nodes", 480),
    "projects": ("/console/projects", 560),
    "users": ("/console/users", 620),
    "tokens": ("/console/account", 620),
    "all-events": ("/console/events", 700),
}


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("docs/images/console"))
    parser.add_argument("--minutes", type=float, default=2.5, help="Traffic before the pictures are taken.")
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium on this machine")
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, control_plane(Path(folder)) as (client, token):
        bundles = [built(Path(folder), f"digits-{width}", width) for width in (64, 256)]
        with calling(client, filled(client, token, bundles), token):
            time.sleep(chosen.minutes * 60)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                pictures(browser, str(client.base_url).rstrip("/"), token, chosen.out)
                browser.close()
    for path in sorted(chosen.out.glob("*.png")):
        print(f"{path} {path.stat().st_size / 1e3:.0f} kB")


# -- what is shown


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[tuple[httpx.Client, str]]:
    """Yield a client of a control plane that ends with the block, and the administrator's token."""
    command = [sys.executable, "-m", "tilth", "up", "--home", str(folder / "home"), "--port", "0", "--json"]
    command += ["--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            told = json.loads(process.stdout.readline())
            headers = {"Authorization": f"Bearer {told['token']}"}
            with httpx.Client(base_url=told["address"], headers=headers, timeout=120) as client:
                yield client, told["token"]
        finally:
            process.terminate()


def built(folder: Path, name: str, width: int) -> Path:
    """Return a bundle of a classifier of handwritten digits, built for this machine."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    known, held_out, known_labels, held_out_labels = train_test_split(images, labels, test_size=360, random_state=0)
    pipeline = make_pipeline(
        StandardScaler(), MLPClassifier((width, width // 2), max_iter=60, random_state=0, tol=1e-3)
    )
    pipeline.fit(known, known_labels)
    bundle, labelled = folder / f"{name}.tilth", folder / f"{name}.npz"
    manifest = tilth.import_model(pipeline, held_out[:128], out=bundle)
    np.savez(labelled, **{manifest.signature.inputs[0].name: held_out, "label": held_out_labels})
    command = ["build", str(bundle), "--eval", str(labelled), "--max-drop", "0.5%", "--budget", "20s"]
    subprocess.run([sys.executable, "-m", "tilth", *command], check=True, stdout=subprocess.DEVNULL)
    return bundle


class Api:
    """The API of a control plane."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(self, method: str, path: str, told: Any = None, who: str = "") -> Any:
        """Ask, and return what was answered."""
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        found = self._client.request(method, path, json=told, headers=headers)
        found.raise_for_status()
        return found.json() if found.content else None

    def push(self, bundle: Path, model: str, **more: Any) -> None:
        """Register a bundle as the next version of a model."""
        with zipfile.ZipFile(bundle) as archive:
            manifest = archive.read("manifest.json")
            names = [name for name in archive.namelist() if name.startswith("blobs/")]
            blobs = {name.partition("/")[2]: archive.read(name) for name in names}
        for one, data in (blobs | {digest(manifest): manifest}).items():
            self._client.put(f"{P}/blobs/{one}", content=data).raise_for_status()
        self("POST", f"{P}/models/{model}/versions", {"digest": digest(manifest)} | more)


def filled(client: httpx.Client, token: str, bundles: list[Path]) -> str:
    """Fill a project as a small team would; return where its endpoints answer."""
    api = Api(client)
    api("POST", "/v1/projects", {"name": "digits-team", "description": "Reads the forms that come in by post."})
    people = {}
    for name, role in {"ann": "operator", "ben": "developer", "chris": "viewer"}.items():
        api("POST", "/v1/users", {"name": name})
        api("PUT", f"{P}/members/{name}", {"role": role})
        people[name] = api("POST", "/v1/tokens", {"name": f"laptop of {name}", "user": name, "expires_in_s": 7776000})
    told = {"description": "Reads a handwritten digit out of 8 x 8 grey values.", "approve": ["production"]}
    api("POST", f"{P}/models", {"name": "digits", "tags": {"team": "forms", "task": "classification"}} | told)
    for number, bundle in enumerate(bundles, 1):
        lineage = {"run": f"mlflow:4f0c2a{number}", "data": [f"digits@{number}"], "code": f"git:9fceb0{number}"}
        about = {"description": "the first one" if number == 1 else "four times as wide", "lineage": lineage}
        api.push(bundle, "digits", aliases=["champion"] if number == 1 else ["challenger"], **about)
    api("POST", f"{P}/models/digits/versions/1/stage", {"stage": "staging"})
    asks = {"stage": "production", "note": "better on sevens, and as fast"}
    api("POST", f"{P}/models/digits/versions/2/stage", asks, who=people["ann"]["secret"])
    api("POST", f"{P}/models", {"name": "postcodes", "description": "Reads a whole postcode at once."})
    api("POST", f"{P}/endpoints", {"name": "digits", "model": "digits"})
    api("POST", f"{P}/endpoints", {"name": "postcodes", "model": "postcodes"})
    secret = people["ann"]["secret"]
    api("POST", f"{P}/endpoints/digits/deploy", {"version": "champion", "note": "to begin with"}, who=secret)
    order = {"version": "challenger", "traffic": 10, "note": "a canary for a day"}
    api("POST", f"{P}/endpoints/digits/deploy", order, who=secret)
    api("POST", "/v1/tokens", {"name": "scanner 4", "project": "digits-team", "role": "caller"})
    for _ in range(600):
        standing = api("GET", f"{P}/endpoints/digits")["standing"]
        if standing is not None and standing["state"] == "ready":
            return str(api("GET", "/v1/me")["serving"])
        time.sleep(0.2)
    sys.exit("the endpoint did not become ready")


@contextlib.contextmanager
def calling(client: httpx.Client, serving: str, token: str) -> Iterator[None]:
    """Call the endpoint while the block lasts: at times more, at times less, and now and then with nonsense."""
    images = load_digits(return_X_y=True)[0].astype(float).tolist()
    over = threading.Event()

    def work() -> None:
        chance = random.Random(7)  # noqa: S311 - traffic, and no secret
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as caller:
            began = time.monotonic()
            while not over.is_set():
                rate = 30 + 18 * np.sin((time.monotonic() - began) / 18) + chance.random() * 6
                rows = [[1.0, 2.0]] if chance.random() < 0.004 else chance.sample(images, chance.choice([1, 1, 4]))
                caller.post(f"{serving}/v1/models/digits-team.digits:predict", json={"instances": rows})
                over.wait(1 / rate)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- pictures


def pictures(browser: Browser, base: str, token: str, out: Path) -> None:
    """Take every picture."""
    with tab(browser, base, token, out / "sign-in.png") as page:
        for name, (path, height) in PAGES.items():
            take(page, base + path, out / f"{name}.png", height)
        page.goto(base + PAGES["endpoint"][0])
        page.get_by_role("button", name="Roll back").click()
        page.wait_for_timeout(500)
        page.screenshot(path=out / "roll-back.png")
    with tab(browser, base, token, dark=True) as page:
        for name in ("endpoint", "version"):
            path, height = PAGES[name]
            take(page, base + path, out / f"{name}-dark.png", height)
    with tab(browser, base, token, width=360) as page:
        take(page, base + PAGES["endpoint"][0], out / "endpoint-phone.png", 1500)


@contextlib.contextmanager
def tab(
    browser: Browser, base: str, token: str, first: Path | None = None, *, dark: bool = False, width: int = 1280
) -> Iterator[Page]:
    """Yield a page that has signed in; `first` is where a picture of the sign-in goes."""
    context = browser.new_context(viewport={"width": width, "height": 760}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.goto(f"{base}/console/sign-in")
    if first is not None:
        page.screenshot(path=first, clip={"x": 0, "y": 0, "width": width, "height": 480})
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console/p/**")
    yield page
    context.close()


def take(page: Page, address: str, path: Path, most: int) -> None:
    """Take a picture of a page, as far down as it goes, when its live parts have come."""
    page.goto(address)
    page.wait_for_timeout(1500)
    height = min(most, page.evaluate("document.documentElement.scrollHeight"))
    width = page.viewport_size["width"]
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    page.set_viewport_size({"width": width, "height": 760})


if __name__ == "__main__":
    main()
