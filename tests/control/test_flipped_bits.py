"""Blobs that change where they lie: one bit, or their length. Each is found before anybody uses it."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from plane import ROW, Up, expected, sample, until, written
from small_s3 import SmallS3, small_s3

from tilth.client.client import Client
from tilth.client.pull import pull
from tilth.core.digest import digest
from tilth.core.errors import UntrustedError

pytestmark = pytest.mark.timeout(240)
_BASE = "/v1/projects/default"
_LARGE = bytes(range(256)) * (5 << 12)


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 0x10])


def _torn(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _grown(data: bytes) -> bytes:
    return data + b"\0"


_HARMS = [_flipped, _torn, _grown]
Harm = Callable[[bytes], bytes]


class Kept:
    """A control plane and where its blobs lie, to be harmed from outside."""

    def __init__(self, up: Up, server: SmallS3 | None, pushed: str) -> None:
        self.up, self.server = up, server
        blobs = json.loads(self.get(pushed))["blobs"]
        self.blobs = [pushed, *sorted(blobs)]
        self.pushed, self.weights = pushed, max(blobs, key=lambda name: blobs[name])

    def at(self, name: str) -> Path:
        """Return where a blob is in the folder."""
        return self.up.folder / "blobs" / name[:2] / name

    @staticmethod
    def key(name: str) -> str:
        """Return where a blob is in S3."""
        return f"bucket/place/blobs/{name[:2]}/{name}"

    def get(self, name: str) -> bytes:
        """Return the bytes of a blob as they lie."""
        if self.server is None:
            return self.at(name).read_bytes()
        return self.server.objects[self.key(name)]

    def put(self, name: str, data: bytes) -> None:
        """Lay other bytes there."""
        if self.server is None:
            self.at(name).write_bytes(data)
        else:
            self.server.objects[self.key(name)] = data

    @contextlib.contextmanager
    def harmed(self, name: str, harm: Harm) -> Iterator[None]:
        """Harm a blob until the end."""
        data = self.get(name)
        assert digest(data) == name
        self.put(name, harm(data))
        try:
            yield
        finally:
            self.put(name, data)


@pytest.fixture(scope="module", params=["folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A control plane with a model and an endpoint, its blobs in a folder, then in S3."""
    with contextlib.ExitStack() as stack:
        server, more = None, []
        if request.param == "s3":
            server = stack.enter_context(small_s3())
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name, value in server.environment.items():
                patch.setenv(name, value)
            more = ["--blobs", "s3://bucket/place"]
        up = stack.enter_context(Up(tmp_path_factory.mktemp(request.param) / "home", *more))
        with Client(up.address, up.secret) as client:
            path = written(sample(), tmp_path_factory.mktemp("bundle") / "m.tilth")
            pushed = client.push(path, "m").version.digest
        up.made("PUT", f"{_BASE}/blobs/{digest(_LARGE)}", content=_LARGE)
        yield Kept(up, server, pushed)


def _told(answer: httpx.Response) -> str:
    """Return what an answer says of damage, which it is about."""
    assert answer.status_code == 422, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["error"] == "UntrustedError" and found["why"] and found["hint"], found
    return str(found["what"])


@pytest.mark.parametrize("harm", _HARMS)
def test_no_damaged_blob_is_downloaded_as_if_it_were_whole(kept: Kept, harm: Harm) -> None:
    for name in kept.blobs:
        data = kept.get(name)
        with kept.harmed(name, harm):
            assert name[:12] in _told(kept.up.ask("GET", f"{_BASE}/blobs/{name}"))
        assert kept.up.ask("GET", f"{_BASE}/blobs/{name}").content == data


@pytest.mark.parametrize("harm", _HARMS)
def test_a_large_damaged_blob_never_ends_well(kept: Kept, harm: Harm) -> None:
    name = digest(_LARGE)
    with kept.harmed(name, harm):
        try:
            answer = kept.up.ask("GET", f"{_BASE}/blobs/{name}")
        except httpx.RemoteProtocolError:
            pass
        else:
            _told(answer)
    assert kept.up.ask("GET", f"{_BASE}/blobs/{name}").content == _LARGE


@pytest.mark.parametrize("harm", _HARMS)
def test_a_damaged_blob_is_not_pulled(kept: Kept, harm: Harm, tmp_path: Path) -> None:
    with Client(kept.up.address, kept.up.secret) as client:
        for name in kept.blobs:
            out = tmp_path / f"{name[:12]}.tilth"
            with kept.harmed(name, harm), pytest.raises(UntrustedError):
                pull(client.blobs, client.versions, "m", "1", out, patience_s=2)
            assert not out.exists()
            # What came before is used, and what was damaged comes anew.
            pull(client.blobs, client.versions, "m", "1", out, patience_s=2)
            assert out.exists()


def test_what_cannot_be_written_as_it_was_is_not_written_over_what_is_there(kept: Kept, tmp_path: Path) -> None:
    out = tmp_path / "m.tilth"
    # Its manifest has whole numbers where Tilth writes `0.0`: the same content, and other bytes.
    kept.up.made("POST", f"{_BASE}/models", {"name": "form"})
    kept.up.push("default", "form", sample(3.0))
    with Client(kept.up.address, kept.up.secret) as client:
        pull(client.blobs, client.versions, "m", "1", out)
        before = out.read_bytes()
        with pytest.raises(UntrustedError):
            pull(client.blobs, client.versions, "form", "1", out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("harm", _HARMS)
def test_no_version_is_made_of_a_damaged_blob(kept: Kept, harm: Harm) -> None:
    name = harm.__name__.strip("_")
    kept.up.made("POST", f"{_BASE}/models", {"name": name})
    with kept.harmed(kept.pushed, harm):
        _told(kept.up.ask("POST", f"{_BASE}/models/{name}/versions", {"digest": kept.pushed}))
    kept.up.made("POST", f"{_BASE}/models/{name}/versions", {"digest": kept.pushed})


@pytest.mark.parametrize("harm", [_flipped, _torn])
def test_a_damaged_blob_is_never_served(kept: Kept, harm: Harm) -> None:
    up, name = kept.up, f"e-{harm.__name__.strip('_')}"
    up.made("POST", f"{_BASE}/endpoints", {"name": name, "model": "m"})

    def standing() -> dict[str, Any]:
        found: dict[str, Any] = up.get(f"{_BASE}/endpoints/{name}")["standing"] or {}
        return found

    with kept.harmed(kept.weights, harm):
        up.made("POST", f"{_BASE}/endpoints/{name}/deploy", {"version": "1"})
        until(lambda: "is damaged" in json.dumps(standing()), standing)
        assert standing()["state"] != "ready"
    up.made("POST", f"{_BASE}/endpoints/{name}/deploy", {"version": "1"})
    until(lambda: standing().get("state") == "ready", standing)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}]}
    answer = httpx.post(
        f"http://{up.server()['http']}/v2/models/default.{name}/infer",
        json=body,
        headers={"Authorization": f"Bearer {up.secret}"},
        trust_env=False,
    )
    assert answer.json()["outputs"][0]["data"] == pytest.approx(expected(), rel=1e-4)


@pytest.mark.parametrize("harm", [_torn, _grown])
def test_a_blob_of_another_length_is_replaced_when_it_is_uploaded_again(kept: Kept, harm: Harm) -> None:
    name = digest(_LARGE)
    kept.put(name, harm(_LARGE))
    kept.up.made("PUT", f"{_BASE}/blobs/{name}", content=_LARGE)
    assert kept.get(name) == _LARGE


def test_a_lost_blob_is_missing_and_not_empty(kept: Kept) -> None:
    name = digest(_LARGE)
    if kept.server is None:
        kept.at(name).unlink()
    else:
        del kept.server.objects[kept.key(name)]
    found = kept.up.ask("GET", f"{_BASE}/blobs/{name}")
    assert found.status_code == 404 and found.json()["hint"], found.text
