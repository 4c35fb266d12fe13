"""Events over a real connection: none is lost or told twice, and who may not any more hears no more."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plane import PATIENCE_S, Up, until

from tilth.client.client import Client
from tilth.client.errors import UnknownError
from tilth.client.shapes.event import Event

FOLLOWERS = 200


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("events") / "home") as made:
        yield made


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with Client(up.address, up.secret) as made:
        yield made


def following(client: Client, after: int, most: int, into: list[Event], **more: float) -> threading.Thread:
    """Follow in a thread until so many have come."""

    def follow() -> None:
        for event in client.events.follow(after=after, everywhere=True, **more):  # type: ignore[arg-type]
            into.append(event)
            if len(into) >= most:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def test_every_event_comes_once_and_in_order_while_four_write(up: Up, client: Client) -> None:
    seen: list[Event] = []
    before = up.events()
    thread = following(client, before, 80, seen)

    def write(hand: int) -> None:
        for number in range(20):
            client.models.make(f"m-{hand}-{number}")

    hands = [threading.Thread(target=write, args=(hand,)) for hand in range(4)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    thread.join(PATIENCE_S)
    assert [one.seq for one in seen] == list(range(before + 1, before + 81))
    assert len({one.subject for one in seen}) == 80


def test_who_follows_over_a_restart_misses_nothing(tmp_path: Path) -> None:
    with Up(tmp_path / "home") as up, Client(up.address, up.secret) as client:
        seen: list[Event] = []
        thread = following(client, up.events(), 6, seen, patience_s=PATIENCE_S)
        for number in range(3):
            client.models.make(f"m{number}")
        until(lambda: len(seen) == 3)
        up.stop(9)
        with Up(tmp_path / "home", "--port", str(up.port), secret=up.secret), Client(up.address, up.secret) as again:
            for number in range(3, 6):
                again.models.make(f"m{number}")
            thread.join(PATIENCE_S)
    assert [one.subject.rpartition("/")[2] for one in seen] == [f"m{number}" for number in range(6)]


def test_a_browser_that_comes_back_goes_on_behind_the_last_event_it_had(up: Up, client: Client) -> None:
    client.projects.make("again")
    last = up.events()
    client.models.make("behind")
    headers = {"Authorization": f"Bearer {up.secret}", "Last-Event-ID": str(last), "Accept": "text/event-stream"}
    with up.client.stream("GET", "/v1/events/stream", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        line = next(one for one in answer.iter_lines() if one.startswith("data:"))
    told = json.loads(line[5:])
    assert told["seq"] == last + 1 and told["action"] == "model.make"


def test_a_stream_ends_when_its_token_is_revoked(up: Up, client: Client) -> None:
    token = client.tokens.make("short")
    found: list[object] = []

    def follow() -> None:
        with Client(up.address, token.secret) as own:
            try:
                for event in own.events.follow(after=0):
                    found.append(event)
            except UnknownError as error:
                found.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    until(lambda: found)
    client.tokens.revoke(token.id)
    client.models.make("after-it-was-revoked")
    thread.join(PATIENCE_S)
    assert isinstance(found[-1], UnknownError)
    assert not any(isinstance(one, Event) and one.subject.endswith("after-it-was-revoked") for one in found)


def test_many_silent_followers_stop_nobody(up: Up, client: Client) -> None:
    asked = (
        f"GET /v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1:{up.port}\r\nAuthorization: Bearer {up.secret}\r\n\r\n"
    ).encode()
    sockets = []
    try:
        for _ in range(FOLLOWERS):
            own = socket.create_connection(("127.0.0.1", up.port), timeout=PATIENCE_S)
            own.sendall(asked)
            sockets.append(own)
        began = time.monotonic()
        for number in range(10):
            client.models.make(f"beside-{number}")
        assert time.monotonic() - began < PATIENCE_S
        sockets[0].settimeout(PATIENCE_S)
        answer = sockets[0].recv(65536)
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503"))
    finally:
        for own in sockets:
            own.close()
    assert client.events.check().sound
