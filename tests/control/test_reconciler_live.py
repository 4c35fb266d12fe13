"""Endpoints of a real `tilth up` with its real server: what answers, before, during and after what goes wrong."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from plane import ROW, Up, expected, sample, until, written

from tilth.client.client import Client
from tilth.client.shapes.endpoint import Standing


class Caller:
    """Calls an endpoint, and keeps which version answered and what went wrong."""

    def __init__(self, up: Up, client: Client, name: str) -> None:
        self.up, self.client, self.name = up, client, name
        self.http = httpx.Client(trust_env=False, timeout=20, headers={"Authorization": f"Bearer {up.secret}"})
        self.answers: list[int] = []
        self.failed: list[str] = []
        self._stop = threading.Event()

    def ask(self) -> int:
        """Return the version that answered: their answers differ."""
        url = f"{self.client.me().serving}/v1/models/default.{self.name}:predict"
        return self._asked(url)

    def _asked(self, url: str) -> int:
        answer = self.http.post(url, json={"rows": [ROW]})
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
        text = answer.text
        for number, scale in ((1, 1.0), (2, 2.0)):
            if f"{expected(scale)[0]:.4f}"[:6] in text:
                return number
        raise AssertionError(text)

    def __enter__(self) -> "Caller":
        self._url = f"{self.client.me().serving}/v1/models/default.{self.name}:predict"
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.http.close()

    def _go_on(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._asked(self._url))
            except (httpx.TransportError, AssertionError) as error:
                self.failed.append(f"{type(error).__name__}: {error}"[:300])
            time.sleep(0.005)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("live")
    with Up(folder / "home") as made, Client(made.address, made.secret) as client:
        for number, more in ((1, {}), (2, {}), (3, {"wrong": True})):
            client.push(written(sample(float(number), **more), folder / f"{number}.tilth"), "m")
        yield made


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with Client(up.address, up.secret) as made:
        yield made


def standing(client: Client, name: str, state: str) -> Standing:
    """Wait until an endpoint is in a state, about what is wanted of it."""

    def found() -> Standing | None:
        endpoint = client.endpoints.get(name)
        seen = endpoint.standing
        return seen if seen is not None and seen.about == endpoint.deployment and seen.state == state else None

    made: Standing = until(found, lambda: client.endpoints.get(name).standing)
    return made


@pytest.fixture
def line(client: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """An endpoint of its own, at which version 1 answers."""
    name = f"e{abs(hash(request.node.name)) % 10**8}"
    client.endpoints.make(name, "m")
    client.endpoints.deploy(name, "1")
    standing(client, name, "ready")
    yield name
    client.endpoints.remove(name)


def test_a_canary_answers_its_share_of_the_requests(up: Up, client: Client, line: str) -> None:
    client.endpoints.deploy(line, "2", traffic=20)
    standing(client, line, "ready")
    with Caller(up, client, line) as caller:
        until(lambda: len(caller.answers) >= 400)
    assert not caller.failed
    share = caller.answers.count(2) / len(caller.answers)
    # Five standard deviations of 400 draws on either side.
    assert 0.10 < share < 0.30, share


def test_a_version_that_looks_on_never_answers_and_is_seen_to_work(up: Up, client: Client, line: str) -> None:
    client.endpoints.deploy(line, "2", traffic=0, shadow=100)
    standing(client, line, "ready")
    with Caller(up, client, line) as caller:
        until(lambda: len(caller.answers) >= 100)
    assert set(caller.answers) == {1} and not caller.failed
    until(lambda: {one.version for one in (client.endpoints.usage(line) or [None])[-1].versions} >= {"1", "2"})  # type: ignore[union-attr]


def test_promoting_and_going_back_loses_no_request(up: Up, client: Client, line: str) -> None:
    with Caller(up, client, line) as caller:
        client.endpoints.deploy(line, "2", traffic=50)
        standing(client, line, "ready")
        client.endpoints.promote(line, "2")
        standing(client, line, "ready")
        until(lambda: caller.answers[-1] == 2)
        client.endpoints.rollback(line, 1)
        standing(client, line, "ready")
        until(lambda: set(caller.answers[-20:]) == {1})
    assert not caller.failed, caller.failed[:3]
    assert {1, 2} == set(caller.answers)


def test_a_bad_bundle_never_takes_the_serving_one_down(up: Up, client: Client, line: str) -> None:
    with Caller(up, client, line) as caller:
        client.endpoints.deploy(line, "3", note="its answers are wrong")
        seen = standing(client, line, "failed")
        count = len(caller.answers)
        until(lambda: len(caller.answers) > count + 50)
    assert not caller.failed and set(caller.answers) == {1}
    assert "agrees with the source framework" in seen.message and seen.traffic == {"1": 100} and seen.deployment == 1
    client.endpoints.rollback(line)
    standing(client, line, "ready")


def test_a_server_that_is_killed_comes_back_with_what_was_deployed(up: Up, client: Client, line: str) -> None:
    before = up.server()["pid"]
    os.killpg(before, signal.SIGKILL)
    until(lambda: (found := up.server()) and found["pid"] != before)
    standing(client, line, "ready")
    caller = Caller(up, client, line)

    def answered() -> bool:
        with contextlib.suppress(AssertionError):
            return caller.ask() == 1
        return False

    until(answered)
    caller.http.close()


def test_what_is_served_goes_on_while_the_control_plane_is_killed_and_starts_again(tmp_path: Path) -> None:
    with Up(tmp_path / "home") as up, Client(up.address, up.secret) as client:
        client.push(written(sample(1.0), tmp_path / "m.tilth"), "m")
        client.endpoints.make("line", "m")
        client.endpoints.deploy("line", "1")
        standing(client, "line", "ready")
        with Caller(up, client, "line") as caller:
            until(lambda: len(caller.answers) > 20)
            server = up.server()["pid"]
            up.stop(signal.SIGKILL)
            count = len(caller.answers)
            until(lambda: len(caller.answers) > count + 50)
            with Up(tmp_path / "home", secret=up.secret) as again, Client(again.address, up.secret) as second:
                standing(second, "line", "ready")
                assert again.server()["pid"] == server, "a server that answers is taken over, not replaced"
                count = len(caller.answers)
                until(lambda: len(caller.answers) > count + 50)
                assert not caller.failed, caller.failed[:3]
                caller._stop.set()
                caller._thread.join()


def test_figures_of_use_are_those_of_the_requests(up: Up, client: Client, line: str) -> None:
    caller = Caller(up, client, line)
    for _ in range(60):
        caller.ask()
    caller.http.close()

    def counted() -> bool:
        points = client.endpoints.usage(line)
        return bool(points) and sum(one.requests for one in points[-1].versions) == 60

    until(counted, lambda: client.endpoints.usage(line)[-1:])
    (use,) = client.endpoints.usage(line)[-1].versions
    assert use.errors == 0 and use.version == "1"


def test_an_endpoint_answers_nobody_without_a_token_of_its_project(up: Up, client: Client, line: str) -> None:
    url = f"{client.me().serving}/v1/models/default.{line}:predict"
    client.projects.make(f"other-{line}")
    stranger = client.tokens.make("elsewhere", project=f"other-{line}").secret
    caller = client.tokens.make("caller", project="default", role="caller").secret

    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(url, json={"rows": [ROW]}, headers=headers, trust_env=False, timeout=20).status_code

    until(lambda: status(caller) == 200)
    assert (status(""), status("tilth_" + "x" * 43)) == (401, 401)
    assert status(stranger) in (401, 403, 404)
