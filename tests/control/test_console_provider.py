"""Signing in at the console through an identity provider, which is a real one in a process of its own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_fixture import BASE, Browser, InProcess

from tilth.control.api.app import guarded
from tilth.control.api.desk import Desk
from tilth.control.console import app
from tilth.control.console.figures import Figures
from tilth.control.console.pages.sign_in import SignIn
from tilth.control.console.sources import Sources
from tilth.control.oidc import Config, Oidc
from tilth.control.store.database import Database
from tilth.core.address import Address
from tilth.core.host import HostRule
from tilth.plugins.blobs.folder import FolderStore


@pytest.fixture
def transport(provider: str, tmp_path: Path) -> Iterator[InProcess]:
    """A console whose people sign in there, over TLS."""
    issuer = httpx.get(f"{provider}/.well-known/openid-configuration").json()["issuer"]
    oidc = Oidc(Config(issuer, "tilth", "hush", "https://127.0.0.1:8750/console/oidc"))
    database = Database(f"sqlite:///{tmp_path}/store.db")
    desk = Desk(database)
    sources = Sources(lambda name: [], lambda: "", Figures(FolderStore(tmp_path / "blobs")))

    async def heard(most_s: float) -> None:
        await asyncio.sleep(most_s)

    ways = [SignIn("Sign in with a card", "/console/card")]
    app.declare(desk, sources, heard, lambda: True, ways, oidc)
    made = InProcess(guarded(desk.app, HostRule([Address("127.0.0.1", 8750)])))
    yield made
    made.run(oidc.close())
    made.close_loop()
    database.close()


def browser(transport: InProcess) -> Browser:
    """A browser that has not signed in."""
    return Browser(httpx.Client(base_url=BASE.replace("http:", "https:"), transport=transport))


def at_the_provider(address: str) -> str:
    """Do what a person does at the provider, and return where the browser is sent."""
    return httpx.post(address, data={"sub": "7"}, follow_redirects=False).headers["location"]


def test_a_person_signs_in_at_the_provider_and_comes_back(transport: InProcess) -> None:
    own = browser(transport)
    own.get("/console/sign-in?next=/console/account")
    assert "Sign in with your company account" in own.text and "Sign in with a card" in own.text
    assert 'href="/console/oidc/begin?next=%2Fconsole%2Faccount"' in own.page
    away = own.client.get("/console/oidc/begin?next=/console/account")
    tie = away.headers["set-cookie"]
    assert tie.startswith("__Host-tilth_away=") and "samesite=lax" in tie.lower() and "httponly" in tie.lower()
    # A strict cookie does not survive a redirect from another site: the answer is a page that goes on by itself.
    answer = own.get(at_the_provider(away.headers["location"]))
    assert answer.status_code == 200 and 'http-equiv="refresh" content="0; url=/console/account"' in own.page
    cookies: list[str] = answer.headers.get_list("set-cookie")
    assert any(one.startswith("__Host-tilth_session=tilth_") and "samesite=strict" in one.lower() for one in cookies)
    assert own.get("/console/account").status_code == 200 and "ann-lee" in own.text


@pytest.mark.parametrize("change", ["another browser", "no answer", "another state", "twice"])
def test_an_answer_that_is_not_this_browsers_signs_nobody_in(transport: InProcess, change: str) -> None:
    own = browser(transport)
    back = at_the_provider(own.client.get("/console/oidc/begin").headers["location"])
    asks: Any = browser(transport) if change == "another browser" else own
    if change == "twice":
        assert own.client.get(back).status_code == 200
        asks.client.cookies.clear()
    path = {"no answer": "/console/oidc", "another state": back.replace("state=", "state=x")}.get(change, back)
    answer = asks.get(path)
    assert answer.status_code == 401 and "tilth_session" not in str(answer.headers.get_list("set-cookie"))
    assert "Sign in" in asks.text


def test_the_provider_leads_nowhere_but_to_the_console(transport: InProcess) -> None:
    own = browser(transport)
    back = at_the_provider(own.client.get("/console/oidc/begin?next=//evil.example").headers["location"])
    own.get(back)
    assert 'content="0; url=/console"' in own.page
