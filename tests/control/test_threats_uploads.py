"""What somebody uploads to do harm: code, damaged or endless graphs, blobs of others; none of it becomes a version."""

import gzip
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from plane import Local, Sample, World, local, sample, world

from tilth.core.digest import canonical_json, digest

ONE = "/v1/projects/one"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with local(tmp_path_factory.mktemp("uploads") / "home") as asks:
        yield world(asks)


def sealed(told: Any) -> bytes:
    """Return a manifest in the one form that its bytes may have."""
    return canonical_json(told)


class Boom:
    """Unpickled, it would leave a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


def zipped(name: str, data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(name, data)
    return made.getvalue()


CODE: dict[str, Callable[[bytes], bytes]] = {
    "a pickle": lambda boom: boom,
    "a torch file": lambda boom: zipped("archive/data.pkl", boom),
    "a keras file": lambda boom: zipped("config.json", b'{"class_name": "Lambda"}'),
    "a numpy file with objects": lambda boom: b"\x93NUMPY\x01\x00" + b"{'descr': '|O'}" + boom,
    "a joblib file": lambda boom: gzip.compress(boom),
    "python": lambda boom: b"import os; os.system('id')",
    "yaml": lambda boom: b"!!python/object/apply:os.system ['id']",
    "an elf file": lambda boom: b"\x7fELF\x02\x01\x01" + b"\0" * 64,
    "nothing": lambda boom: b"",
}


def put(asks: Local, data: bytes) -> str:
    name = digest(data)
    asks.made("PUT", f"{ONE}/blobs/{name}", content=data)
    return name


def refused(crowd: World, told: dict[str, Any], *wanted: int) -> dict[str, Any]:
    """Register what is no bundle, and return why it was refused."""
    before = crowd.asks.get(f"{ONE}/models/m")["newest"]
    answer = crowd.asks.ask("POST", f"{ONE}/models/m/versions", told)
    assert answer.status_code in (wanted or (400, 404, 409, 415, 422)), f"{answer.status_code} {answer.text[:400]}"
    assert crowd.asks.get(f"{ONE}/models/m")["newest"] == before
    assert not list(crowd.asks.home.uploads.glob("inspect-*"))
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("kind", CODE)
def test_code_that_is_uploaded_is_never_run_and_never_a_version(kind: str, crowd: World, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    name = put(crowd.asks, CODE[kind](pickle.dumps(Boom(str(trace)))))
    refused(crowd, {"digest": name})
    assert not trace.exists()


@pytest.mark.parametrize("kind", CODE)
def test_code_in_the_place_of_a_graph_is_never_run(kind: str, crowd: World, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    code = CODE[kind](pickle.dumps(Boom(str(trace))))
    refused(crowd, {"digest": with_graph(crowd, code)})
    assert not trace.exists()


def with_graph(crowd: World, graph: bytes) -> str:
    """Upload a bundle whose graph is something else, and return its digest."""
    found = sample(5.0)
    data = found.manifest.replace(found.graph.encode(), digest(graph).encode())
    told = json.loads(data)
    told["blobs"][digest(graph)] = len(graph)
    changed = found.altered(sealed(told))
    crowd.asks.upload("one", Sample(changed.digest, dict(changed.blobs) | {digest(graph): graph}))
    return changed.digest


def deep(levels: int) -> bytes:
    """Return a model with subgraphs within subgraphs, as bytes: written by hand, since no library makes it."""
    inner = b""
    for _ in range(levels):
        graph = b"\x0a" + _length(len(inner)) + inner if inner else b""
        attribute = b"\x0a\x04body" + b"\x32" + _length(len(graph)) + graph + b"\xa0\x01\x05"
        inner = b"\x22\x04Loop" + b"\x2a" + _length(len(attribute)) + attribute
    graph = b"\x0a" + _length(len(inner)) + inner
    return b"\x08\x08" + b"\x3a" + _length(len(graph)) + graph


def _length(value: int) -> bytes:
    made = bytearray()
    while True:
        made.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(made)


def external(location: str) -> bytes:
    """Return a model whose weights are said to be in a file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="length", value="8")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", edges[:1], edges[1:], [tensor])
    made: bytes = helper.make_model(graph).SerializeToString()
    return made


GRAPHS: dict[str, Callable[[], bytes]] = {
    "nested ten thousand deep": lambda: deep(10_000),
    "a hundred thousand nodes of nothing": lambda: b"\x08\x08\x3a" + _length(300_000) + b"\x0a\x01\x00" * 100_000,
    "a length beyond the end": lambda: b"\x08\x08\x3a\xff\xff\xff\xff\x7f",
    "weights in a file above": lambda: external("../../../etc/passwd"),
    "weights in an absolute file": lambda: external("/etc/passwd"),
    "weights in a device": lambda: external("/dev/zero"),
    "weights in a blob of somebody else": lambda: external(f"../../blobs/{'a' * 64}"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_hostile_graph_is_refused_and_the_next_one_is_not(kind: str, crowd: World) -> None:
    refused(crowd, {"digest": with_graph(crowd, GRAPHS[kind]())})
    assert crowd.asks.push("one", "m", sample(6.0))["number"] > 1


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a blob of 2^63 bytes": lambda told: told["blobs"].update({"a" * 64: 1 << 63}),
    "a blob of -1 bytes": lambda told: told["blobs"].update({"a" * 64: -1}),
    "a blob with a path for a name": lambda told: told["blobs"].update({"../../etc/passwd": 4}),
    "a blob that was not uploaded": lambda told: told["blobs"].update({"a" * 64: 4}),
    "another size of a blob": lambda told: told["blobs"].update({next(iter(told["blobs"])): 1}),
    "a hundred thousand blobs": lambda told: told["blobs"].update({f"{n:064x}": 4 for n in range(100_000)}),
    "a shape beyond its bytes": lambda told: told["golden"]["cases"][0]["inputs"]["x"].update(shape=[1 << 31, 1 << 31]),
    "a later form": lambda told: told.update(schema=99),
    "no graph": lambda told: told.update(graphs=[]),
    "a field that is not known": lambda told: told.update(post_install="id"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_says_what_is_not_so_is_refused(kind: str, crowd: World) -> None:
    found = sample(5.0)
    told = json.loads(found.manifest)
    MANIFESTS[kind](told)
    changed = found.altered(sealed(told))
    crowd.asks.upload("one", changed)
    refused(crowd, {"digest": changed.digest})


def test_a_bundle_whose_name_is_a_path_is_text_and_leads_nowhere(crowd: World) -> None:
    told = json.loads(sample(5.0).manifest) | {"name": "../../x"}
    told["builds"][0]["engine"] = "../../x"
    changed = sample(5.0).altered(sealed(told))
    answer = crowd.asks.push("one", "m", changed)
    assert answer["model"] == "m" and answer["summary"]["name"] == "../../x"


def test_a_blob_of_another_project_is_as_missing_as_one_of_nobody(crowd: World) -> None:
    """Else a digest would be a question about what others have, or a way to it."""
    asks, data = crowd.asks, b"a secret of project two"
    name = digest(data)
    asks.made("PUT", f"/v1/projects/two/blobs/{name}", content=data)
    nobody = "b" * 64
    assert asks.made("POST", f"{ONE}/blobs/missing", {"digests": [name, nobody]})["missing"] == [name, nobody]
    answers = [asks.ask("GET", f"{ONE}/blobs/{one}") for one in (name, nobody)]
    assert [one.status_code for one in answers] == [404, 404]
    assert answers[0].text.replace(name[:12], "") == answers[1].text.replace(nobody[:12], "")
    told = json.loads(sample(5.0).manifest)
    told["blobs"][name] = len(data)
    changed = sample(5.0).altered(sealed(told))
    asks.upload("one", changed)
    assert "not uploaded" in json.dumps(refused(crowd, {"digest": changed.digest}, 404))


@pytest.mark.parametrize("offset", ["-1", "1", "999999999999999", "0x0", "0,0", " 0", ""])
def test_a_piece_at_another_place_is_refused(offset: str, crowd: World) -> None:
    data = f"piece {offset!r}".encode()
    found = crowd.asks.made("POST", f"{ONE}/uploads", {"digest": digest(data), "size_bytes": len(data)})
    answer = crowd.asks.ask("PATCH", f"{ONE}/uploads/{found['id']}", content=data, headers={"Upload-Offset": offset})
    assert answer.status_code in (400, 409), f"{answer.status_code} {answer.text}"
    assert crowd.asks.get(f"{ONE}/uploads/{found['id']}")["offset"] == 0


def test_more_than_was_announced_is_refused_and_less_is_not_a_blob(crowd: World) -> None:
    data = b"exactly this"
    path = f"{ONE}/uploads/"
    found = crowd.asks.made("POST", f"{ONE}/uploads", {"digest": digest(data), "size_bytes": len(data)})
    path += found["id"]
    more = crowd.asks.ask("PATCH", path, content=data + b"!", headers={"Upload-Offset": "0"})
    assert more.status_code == 400
    assert crowd.asks.ask("GET", f"{ONE}/blobs/{digest(data)}").status_code == 404


def test_other_bytes_than_announced_are_thrown_away(crowd: World) -> None:
    data, other = b"exactly this one", b"exactly that one"
    found = crowd.asks.made("POST", f"{ONE}/uploads", {"digest": digest(data), "size_bytes": len(data)})
    answer = crowd.asks.ask("PATCH", f"{ONE}/uploads/{found['id']}", content=other, headers={"Upload-Offset": "0"})
    assert answer.status_code == 422 and answer.json()["error"] == "UntrustedError"
    assert not list(crowd.asks.home.uploads.glob(found["id"]))
    kept = {name for name, _ in crowd.asks.blobs.walk()}
    assert hashlib.sha256(other).hexdigest() not in kept and digest(data) not in kept


def test_an_upload_without_end_is_not_begun(crowd: World) -> None:
    for size in (-1, 1 << 62, 1.5, "x", None):
        answer = crowd.asks.ask("POST", f"{ONE}/uploads", {"digest": "c" * 64, "size_bytes": size})
        assert answer.status_code in (400, 422), f"{size}: {answer.text}"
    answer = crowd.asks.ask("POST", f"{ONE}/uploads", {"digest": "c" * 64, "size_bytes": 60 << 30})
    assert answer.status_code in (200, 201, 503)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_packed_body_is_not_unpacked(encoding: str, crowd: World) -> None:
    """A bomb stays what it is: bytes, which are not those of the digest."""
    bomb = gzip.compress(b"\0" * (64 << 20))
    name = hashlib.sha256(b"\0" * (64 << 20)).hexdigest()
    answer = crowd.asks.ask("PUT", f"{ONE}/blobs/{name}", content=bomb, headers={"Content-Encoding": encoding})
    assert answer.status_code in (400, 415, 422)
    answer = crowd.asks.ask(
        "POST", "/v1/users", content=bomb, headers={"Content-Encoding": encoding, "Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 413, 415, 422)
