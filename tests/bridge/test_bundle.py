"""Bundles written and read back: bit for bit, whole or not at all."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bundle_samples import BIAS, WEIGHTS, external, manifest_of, model, tensor, write_sample
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilth.bridge import manifest as manifest_limits
from tilth.bridge import model_checks, model_file, model_walk, stored_zip, tensor_bytes
from tilth.bridge.arrays import decode_array
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.bundle_write import encode_array, encode_value, write_bundle
from tilth.bridge.manifest import decode_manifest
from tilth.bridge.skeleton import Parts, split
from tilth.core.blob import FileRange, sizes_of
from tilth.core.digest import canonical_json, digest
from tilth.core.errors import (
    InvalidError,
    MissingError,
    RefusedError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
)
from tilth.core.record import to_json
from tilth.ports.arrays import Value

DTYPES = ["f2", "f4", "f8", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i8"]


def same(one: Value, other: Value) -> bool:
    if one is None or other is None:
        return one is other
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        equal = one.shape == other.shape and one.dtype == other.dtype
        return equal and (one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes())
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def tree(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(item.relative_to(path)): item.read_bytes() for item in sorted(path.rglob("*")) if item.is_file()}


@pytest.fixture(params=["file", "folder"])
def kind(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "folder")


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_every_numeric_array_survives_bit_for_bit(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(hnp.arrays(np.dtype(data.draw(st.sampled_from(DTYPES))), shape))
    found = decode_array(*encode_array(array))
    assert same(found, array.astype(array.dtype.newbyteorder("=")))


@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, min_side=0, max_side=3), elements=st.text()))
@settings(max_examples=50, deadline=None)
def test_every_text_survives(array: Any) -> None:
    assert same(decode_array(*encode_array(array)), array)


def test_numpy_texts_and_bytes_come_back_as_texts() -> None:
    for array in (np.array(["a", "bü"]), np.array([b"a", "bü".encode()])):
        assert decode_array(*encode_array(array)).tolist() == ["a", "bü"]


@pytest.mark.parametrize(
    "array", [np.array([1j]), np.array(["2026-01-01"], "M8[D]"), np.array([(1,)], dtype=[("a", "i4")])]
)
def test_a_dtype_that_no_bundle_holds_is_refused(array: Any) -> None:
    with pytest.raises(UnsupportedError):
        encode_array(array)


@pytest.mark.parametrize("item", [1, None, "\ud800", b"\xff"])
def test_text_that_is_none_is_refused(item: object) -> None:
    array = np.empty(1, dtype=object)
    array[0] = item
    with pytest.raises(InvalidError):
        encode_array(array)


def test_golden_values_of_every_kind_come_back(tmp_path: Path, kind: bool) -> None:
    inputs: dict[str, Value] = {
        "x": np.array([[1.5, -0.0], [np.nan, np.inf]], np.float16),
        "flag": np.array(True),
        "texts": np.array([["a", ""], ["\n\0", "ü"]], dtype=object),
        "empty": np.zeros((0, 3), np.int64),
        "absent": None,
    }
    outputs: dict[str, Value] = {"seq": [np.arange(3), np.zeros((2, 0), np.float32), np.array(2.5)], "none": []}
    manifest, blobs = manifest_of(split(model(), None), [(inputs, outputs), (outputs, inputs)])
    write_bundle(tmp_path / "m.tilth", manifest, blobs, folder=kind)
    with open_bundle(tmp_path / "m.tilth") as bundle:
        first, second = bundle.golden()
    for found, wanted in ((first[0], inputs), (first[1], outputs), (second[0], outputs), (second[1], inputs)):
        assert found.keys() == wanted.keys()
        assert all(same(found[name], wanted[name]) for name in wanted)


def test_what_is_read_is_what_was_written(tmp_path: Path, kind: bool) -> None:
    manifest, blobs = write_sample(tmp_path / "m.tilth", folder=kind)
    assert (tmp_path / "m.tilth").is_dir() is kind
    with open_bundle(tmp_path / "m.tilth") as bundle:
        bundle.verify()
        assert bundle.manifest == manifest
        assert {name: bundle.blob(name) for name in blobs} == blobs
        assert bundle.skeleton(manifest.graph.digest).graph.name == "g"


def test_equal_content_gives_equal_bytes_and_the_digest_of_the_manifest(tmp_path: Path, kind: bool) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    first = write_bundle(tmp_path / "a.tilth", manifest, blobs, folder=kind)
    time.sleep(0.01)
    backwards = dict(reversed(blobs.items()))
    second = write_bundle(tmp_path / "b.tilth", manifest, backwards, folder=kind)
    assert tree(tmp_path / "a.tilth") == tree(tmp_path / "b.tilth")
    with open_bundle(tmp_path / "a.tilth") as bundle:
        assert first == second == bundle.digest
    if kind:
        assert digest((tmp_path / "a.tilth" / "manifest.json").read_bytes()) == first


def test_the_standard_library_reads_the_file_too(tmp_path: Path) -> None:
    _, blobs = write_sample(tmp_path / "m.tilth")
    with zipfile.ZipFile(tmp_path / "m.tilth") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *(f"blobs/{name}" for name in sorted(blobs))]


def test_a_folder_and_a_file_turn_into_one_another(tmp_path: Path) -> None:
    manifest, _ = write_sample(tmp_path / "a.tilth")
    with open_bundle(tmp_path / "a.tilth") as bundle:
        sources = {name: bundle.source(name) for name in manifest.blobs}
        write_bundle(str(tmp_path / "b.tilth") + "/", manifest, sources)
    with open_bundle(tmp_path / "b.tilth") as bundle:
        write_bundle(tmp_path / "c.tilth", manifest, {name: bundle.source(name) for name in manifest.blobs})
    assert (tmp_path / "b.tilth").is_dir()
    assert tree(tmp_path / "a.tilth") == tree(tmp_path / "c.tilth")


def test_a_bundle_is_rewritten_from_itself_while_it_is_open(tmp_path: Path, kind: bool) -> None:
    path = tmp_path / "m.tilth"
    manifest, blobs = write_sample(path, folder=kind)
    with open_bundle(path) as old:
        write_bundle(path, replace(manifest, name="other"), {name: old.source(name) for name in blobs})
    with open_bundle(path) as bundle:
        bundle.verify()
        assert bundle.manifest.name == "other"
    assert os.listdir(tmp_path) == ["m.tilth"]


def test_an_open_file_keeps_what_it_was_when_another_takes_its_place(tmp_path: Path) -> None:
    manifest, blobs = write_sample(tmp_path / "m.tilth")
    with open_bundle(tmp_path / "m.tilth") as old:
        write_bundle(tmp_path / "m.tilth", replace(manifest, name="a longer name"), blobs)
        old.verify()
        assert old.manifest == manifest


@pytest.mark.parametrize("limit", [0, 64 << 20])
def test_engines_load_what_materialise_writes(tmp_path: Path, kind: bool, limit: int) -> None:
    manifest, _ = write_sample(tmp_path / "m.tilth", folder=kind)
    with open_bundle(tmp_path / "m.tilth") as bundle:
        path = bundle.materialise(manifest.graph.digest, tmp_path / "new", self_contained_bytes=limit)
    assert {item.name for item in path.parent.iterdir()} == {"model.onnx"} | (
        set() if limit else set(manifest.graph.weights)
    )
    assert path.parent.stat().st_mode & 0o777 == 0o700
    x = np.ones((3, 64), np.float32)
    session = onnxruntime.InferenceSession(str(path))
    wanted = onnxruntime.InferenceSession(model().SerializeToString())
    assert np.array_equal(session.run(None, {"x": x})[0], wanted.run(None, {"x": x})[0])


def test_materialise_refuses_a_folder_where_something_lies(tmp_path: Path) -> None:
    manifest, _ = write_sample(tmp_path / "m.tilth")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.onnx").write_bytes(b"x")
    with open_bundle(tmp_path / "m.tilth") as bundle, pytest.raises(InvalidError, match="not empty"):
        bundle.materialise(manifest.graph.digest, tmp_path / "new")
    assert (tmp_path / "new" / "model.onnx").read_bytes() == b"x"


def test_a_blob_or_graph_that_is_not_there_is_named(tmp_path: Path) -> None:
    manifest, _ = write_sample(tmp_path / "m.tilth")
    with open_bundle(tmp_path / "m.tilth") as bundle:
        for ask in (bundle.blob, bundle.source, bundle.skeleton):
            with pytest.raises(MissingError):
                ask("0" * 64)
        with pytest.raises(MissingError):
            bundle.skeleton(next(iter(manifest.graph.weights)))


def test_external_weights_go_into_the_bundle_without_being_held(tmp_path: Path, kind: bool) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    parts = split(model(external("w", "w"), tensor("b", BIAS)), tmp_path)
    manifest, blobs = manifest_of(parts)
    write_bundle(tmp_path / "m.tilth", manifest, blobs, folder=kind)
    with open_bundle(tmp_path / "m.tilth") as bundle:
        assert bundle.blob(digest(WEIGHTS.tobytes())) == WEIGHTS.tobytes()


def test_weights_that_change_between_split_and_write_are_noticed(tmp_path: Path, kind: bool) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    manifest, blobs = manifest_of(split(model(external("w", "w"), tensor("b", BIAS)), tmp_path))
    (tmp_path / "w").write_bytes((WEIGHTS + 1).tobytes())
    with pytest.raises(UntrustedError, match="holds other bytes"):
        write_bundle(tmp_path / "m.tilth", manifest, blobs, folder=kind)
    assert os.listdir(tmp_path) == ["w"]


def test_a_blob_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    name = next(iter(blobs))
    for wrong in ({**blobs, "0" * 64: b""}, {key: value for key, value in blobs.items() if key != name}):
        with pytest.raises(InvalidError):
            write_bundle(tmp_path / "m.tilth", manifest, wrong)
        with pytest.raises(InvalidError):
            write_bundle(tmp_path / "m.tilth", replace(manifest, blobs={}), {})
    assert os.listdir(tmp_path) == []


def test_figures_that_json_cannot_say_are_refused(tmp_path: Path) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    with pytest.raises(InvalidError, match="cannot be written"):
        write_bundle(tmp_path / "m.tilth", replace(manifest, notes={"a": "\ud800"}), blobs)
    assert os.listdir(tmp_path) == []


class Failing(Mapping[str, Any]):
    """Blobs of which the third cannot be read."""

    def __init__(self, blobs: Mapping[str, Any], failure: BaseException) -> None:
        self._blobs, self._failure, self._left = blobs, failure, 3

    def __getitem__(self, name: str) -> Any:
        self._left -= 1
        if not self._left:
            raise self._failure
        return self._blobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), MemoryError(), OSError(5, "I/O error"), ValueError("x")])
def test_a_failure_in_the_middle_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path, kind: bool, failure: BaseException
) -> None:
    manifest, blobs = write_sample(tmp_path / "m.tilth", folder=kind)
    before = tree(tmp_path / "m.tilth")
    with pytest.raises(UnavailableError if isinstance(failure, OSError) else type(failure)):
        write_bundle(tmp_path / "m.tilth", replace(manifest, name="new"), Failing(blobs, failure), folder=kind)
    assert tree(tmp_path / "m.tilth") == before
    assert os.listdir(tmp_path) == ["m.tilth"]


def test_a_source_that_goes_away_leaves_the_old_bundle(tmp_path: Path, kind: bool) -> None:
    manifest, blobs = write_sample(tmp_path / "m.tilth", folder=kind)
    before = tree(tmp_path / "m.tilth")
    name = max(blobs)
    gone = {**blobs, name: FileRange(tmp_path / "gone", 0, len(blobs[name]))}
    with pytest.raises(MissingError):
        write_bundle(tmp_path / "m.tilth", manifest, gone, folder=kind)
    assert tree(tmp_path / "m.tilth") == before


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bundle_samples import write_sample
from dataclasses import replace
from tilth.bridge.bundle_write import write_bundle
path = Path(sys.argv[1])
manifest, blobs = write_sample(path, folder=sys.argv[3] == "1")
print("ready", flush=True)
while True:
    for name in ("one", "two"):
        write_bundle(path, replace(manifest, name=name * 50), blobs)
"""


@pytest.mark.parametrize("delay_ms", [1, 4, 7, 12, 20])
def test_a_killed_writer_leaves_a_whole_bundle(tmp_path: Path, kind: bool, delay_ms: int) -> None:
    path = tmp_path / "m.tilth"
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent), str(int(kind))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(delay_ms / 1000)
        writer.send_signal(signal.SIGKILL)
    with open_bundle(path) as bundle:
        bundle.verify()


def test_readers_never_see_a_half_replaced_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.tilth"
    manifest, blobs = write_sample(path, folder=True)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            write_bundle(path, manifest, blobs)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(200):
            assert (path / "manifest.json").is_file()
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("content", [b"PK\3\4 but another zip", b"\x08\x09 a model", b"#!/bin/sh"])
def test_a_file_that_is_no_bundle_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(RefusedError, match="is not replaced"):
        write_sample(tmp_path / "model.onnx")
    assert tree(tmp_path) == {"model.onnx": content}


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(RefusedError, match=r"thesis\.tex"):
        write_sample(tmp_path / "home")
    assert tree(tmp_path) == {"home/thesis.tex": b"years of work"}


def test_an_empty_file_and_an_empty_folder_are_filled(tmp_path: Path) -> None:
    (tmp_path / "a.tilth").touch()
    (tmp_path / "b.tilth").mkdir()
    for name in ("a.tilth", "b.tilth"):
        write_sample(tmp_path / name)
        with open_bundle(tmp_path / name) as bundle:
            bundle.verify()
    assert (tmp_path / "b.tilth").is_dir()


def test_a_place_that_is_not_a_folder_is_named(tmp_path: Path, kind: bool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="Not a directory"):
        write_sample(tmp_path / "file" / "m.tilth", folder=kind)
    with pytest.raises(MissingError, match="mkdir -p"):
        write_sample(tmp_path / "none" / "m.tilth", folder=kind)


def test_a_folder_without_write_permission_is_named(tmp_path: Path, kind: bool) -> None:
    # /proc takes no new names, from root neither.
    with pytest.raises((UnavailableError, MissingError)) as caught:
        write_sample(Path("/proc/m.tilth"), folder=kind)
    assert "/proc" in str(caught.value)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = shutil.which("mount")
    made = os.geteuid() == 0 and mount is not None
    made = (
        made
        and not subprocess.run(
            [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if not made:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def large(scale: float) -> Parts:
    weights = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32) * np.float32(scale)
    return split(model(tensor("w", weights), tensor("b", np.zeros(4096, np.float32))), None)


def test_a_full_disk_leaves_the_old_bundle_and_says_how_much_is_needed(tmp_path: Path, kind: bool) -> None:
    with small_disk(tmp_path / "disk", "1500k") as disk:
        write_bundle(disk / "m.tilth", *manifest_of(large(1)), folder=kind)
        before = tree(disk / "m.tilth")
        manifest, blobs = manifest_of(large(2))
        with pytest.raises(UnavailableError) as caught:
            write_bundle(disk / "m.tilth", manifest, blobs)
        assert "No space left" in caught.value.why
        assert str(sum(sizes_of(blobs).values()))[:3] in caught.value.hint
        assert tree(disk / "m.tilth") == before
        assert os.listdir(disk) == ["m.tilth"]


def test_a_full_disk_leaves_no_half_materialised_model(tmp_path: Path) -> None:
    manifest, blobs = manifest_of(large(1))
    write_bundle(tmp_path / "m.tilth", manifest, blobs)
    with small_disk(tmp_path / "disk", "500k") as disk, open_bundle(tmp_path / "m.tilth") as bundle:
        with pytest.raises(UnavailableError, match="cannot be written"):
            bundle.materialise(manifest.graph.digest, disk / "new")
        assert tree(disk) == {}


def test_encode_value_keeps_the_blobs_of_a_sequence() -> None:
    value, blobs = encode_value([np.zeros(2), np.ones(2), np.zeros(2)])
    assert isinstance(value, tuple)
    assert [item.blob for item in value] == [digest(np.zeros(2).tobytes()), digest(np.ones(2).tobytes())] + [
        value[0].blob
    ]
    assert len(blobs) == 2
    assert encode_value(None) == (None, {})


DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "bundle.md"


@pytest.mark.parametrize(
    ("limit", "shown"),
    [
        (manifest_limits.MAX_BLOBS, "100,000"),
        (manifest_limits.MAX_MANIFEST_BYTES, "64 MiB"),
        (manifest_limits.MAX_TOTAL_BYTES, "64 GiB"),
        (manifest_limits.MAX_CONTAINERS, "2,000,000"),
        (model_walk.MAX_NODES, "200,000"),
        (model_walk.MAX_PARTS, "1,000,000"),
        (model_walk.MAX_DEPTH, "32"),
        (model_file.MAX_MODEL_BYTES, "2 GiB"),
        (model_checks.BLOB_BYTES, "4 KiB"),
        (tensor_bytes.MAX_RANK, "32"),
        (tensor_bytes.MAX_ELEMENTS, "2^48"),
        (stored_zip.MAX_DIRECTORY_BYTES, "32 MiB"),
    ],
)
def test_the_limits_in_the_documentation_are_those_of_the_code(limit: int, shown: str) -> None:
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    number, _, unit = shown.partition(" ")
    value = 1 << int(number[2:]) if number.startswith("2^") else int(number.replace(",", "")) * units.get(unit, 1)
    assert limit in (value, value - 1)
    assert f"| {shown} |" in DOCUMENT.read_text("utf-8")


def test_the_manifest_in_the_documentation_is_read() -> None:
    text = DOCUMENT.read_text("utf-8").split("```json\n")[1].split("```")[0]
    manifest = decode_manifest(canonical_json(json.loads(text)))
    assert json.loads(text) == to_json(manifest)
