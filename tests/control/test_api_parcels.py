"""Several small blobs in one request: all of them are kept, or none."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from plane import Local, Up, local, sample, written

from tilth.bridge.container import open_container
from tilth.client.client import Client
from tilth.client.parcel import MOST_BYTES, packed
from tilth.core.digest import digest

BLOBS = {digest(one): one for one in (b"one", b"two", b"")}
PATH = "/v1/projects/default/blobs"


@pytest.fixture
def asks(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "home") as made:
        yield made


def missing(asks: Local) -> list[str]:
    found: list[str] = asks.made("POST", f"{PATH}/missing", {"digests": list(BLOBS)})["missing"]
    return found


def test_all_blobs_of_a_request_are_kept_and_can_be_read(asks: Local) -> None:
    answer = asks.ask("PUT", PATH, content=packed(BLOBS))
    assert answer.status_code == 200 and answer.json() == {"kept": list(BLOBS)}
    assert missing(asks) == []
    assert [asks.ask("GET", f"{PATH}/{name}").content for name in BLOBS] == list(BLOBS.values())
    assert asks.ask("PUT", PATH, content=packed(BLOBS)).status_code == 200
    kept = [one for one in asks.get("/v1/projects/default/events")["items"] if one["action"] == "blob.keep"]
    assert len(kept) == len(BLOBS)


def test_one_wrong_blob_keeps_none_of_them(asks: Local) -> None:
    answer = asks.ask("PUT", PATH, content=packed(BLOBS | {digest(b"other"): b"wrong"}))
    assert answer.status_code == 422 and answer.json()["error"] == "UntrustedError"
    assert missing(asks) == list(BLOBS)
    assert not list(asks.blobs.walk()) and not list((asks.home.uploads).iterdir())


def test_a_body_that_is_too_large_is_refused_before_it_is_read(asks: Local) -> None:
    headers = {"Content-Length": str(MOST_BYTES + 1)}
    answer = asks.ask("PUT", PATH, content=b"", headers=headers)
    assert answer.status_code == 400 and "too large" in answer.json()["what"]


def test_a_body_without_a_length_is_refused(asks: Local) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield packed(BLOBS)

    answer = asks.ask("PUT", PATH, content=pieces())
    assert answer.status_code == 400 and "Content-Length" in answer.json()["what"]


def test_a_push_sends_only_what_an_earlier_one_left(tmp_path: Path) -> None:
    path = written(sample(2.0), tmp_path / "m.tilth")
    container = open_container(path)
    sizes = container.sizes
    rest = sum(sizes.values()) + len(container.manifest())
    container.close()
    before = {name: data for name, data in list(sample(2.0).blobs.items())[:2] if name in sizes}
    with Up(tmp_path / "home") as up, Client(up.address, up.secret) as client:
        client.blobs.put_all(before)
        assert before and client.push(path, "m").sent_bytes == rest - sum(map(len, before.values()))
