"""The typed client against a real `tilth up`: what goes in comes out, and what is there is not sent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from plane import Up, sample, until, written

from tilth.client.client import Client
from tilth.core.errors import InvalidError, MissingError, RefusedError, TilthError, UntrustedError


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("client") / "home") as made:
        yield made


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with Client(up.address, up.secret) as made:
        yield made


def test_a_bundle_comes_back_as_it_was_and_is_not_sent_twice(client: Client, tmp_path: Path) -> None:
    found = sample(2.0)
    path = written(found, tmp_path / "m.tilth")
    told: list[tuple[str, int, int]] = []

    def note(stage: str, done: int, total: int, detail: str = "") -> None:
        told.append((stage, done, total))

    first = client.push(path, "whole", aliases=["champion"], progress=note)
    assert first.made_model and first.version.number == 1
    assert first.sent_bytes > sum(len(one) for name, one in found.blobs.items() if name != found.digest)
    assert told and all(done <= total for _, done, total in told)
    second = client.push(path, "whole")
    assert second.sent_bytes == 0 and not second.made_model and second.version.digest == first.version.digest
    pulled = client.pull("whole:champion", tmp_path / "back.tilth")
    assert pulled.version.number == 1 and (tmp_path / "back.tilth").read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".*.pull"))


def test_a_damaged_bundle_is_told_before_a_version_is_made(client: Client, tmp_path: Path) -> None:
    path = written(sample(5.0), tmp_path / "m.tilth")
    data = bytearray(path.read_bytes())
    weights = next(one for name, one in sample(5.0).blobs.items() if name != sample(5.0).digest)
    at = bytes(data).find(weights)
    data[at + len(weights) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UntrustedError):
        client.push(path, "damaged")
    with pytest.raises(MissingError):
        client.versions.get("damaged")


def test_what_is_deployed_serves_and_every_change_is_in_the_events(client: Client, tmp_path: Path) -> None:
    client.push(written(sample(7.0), tmp_path / "m.tilth"), "served")
    client.endpoints.make("line", "served")
    client.endpoints.deploy("line", "1")
    until(lambda: (seen := client.endpoints.get("line").standing) is not None and seen.state == "ready")
    actions = [one.action for one in client.events.list()]
    assert actions.index("endpoint.make") < actions.index("endpoint.deploy")
    assert client.events.check().sound


def test_a_token_is_not_sent_in_the_clear_to_another_machine() -> None:
    with pytest.raises(RefusedError):
        Client("http://192.0.2.7:8750", "tilth_" + "x" * 43)


@pytest.mark.parametrize(("model", "version"), [("..", "1"), ("a/b", "1"), ("", "1")])
def test_a_name_that_would_lead_elsewhere_is_refused_here(client: Client, model: str, version: str) -> None:
    with pytest.raises(TilthError):
        client.versions.get(model, version)
    with pytest.raises(InvalidError):
        client.pull(f"{model}:{version}", "/nowhere/out.tilth")
