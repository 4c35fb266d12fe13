"""Bundles made by somebody who wants a file read, a limit passed or a weight swapped."""

import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundle_samples import WEIGHTS, manifest_of, model, write_sample
from onnx import ModelProto

from tilth.bridge import manifest as limits
from tilth.bridge.arrays import decode_array
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.manifest import decode_manifest
from tilth.bridge.model_checks import check_model
from tilth.bridge.skeleton import facts, split
from tilth.bridge.stored_zip import read_members
from tilth.core.bundle import Array, Manifest
from tilth.core.digest import canonical_json, digest
from tilth.core.errors import InvalidError, MissingError, TilthError, UnsupportedError, UntrustedError
from tilth.core.record import to_json

Members = list[tuple[str | zipfile.ZipInfo, bytes]]


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def pack(path: Path, members: Members, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the duplicates that are made on purpose
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in members:
                archive.writestr(name, data)


def sample(folder: Path) -> tuple[Path, Members]:
    path = folder / "m.tilth"
    write_sample(path)
    return path, members_of(path)


def opened_and_verified(path: Path) -> None:
    with open_bundle(path) as bundle:
        bundle.verify()


def test_a_zip_that_another_program_stored_is_read(tmp_path: Path) -> None:
    path, members = sample(tmp_path)
    pack(path, members)
    opened_and_verified(path)


HEX = "ab" * 32
BAD_NAMES = [
    "../manifest.json",
    "blobs/../../x",
    "/etc/passwd",
    "blobs\\" + HEX,
    "C:/x",
    "blobs/" + HEX.upper(),
    "blobs/" + HEX[:-1],
    "blobs/" + HEX + "0",
    "blobs/" + HEX + "\n",
    "blobs/sha256:" + HEX,
    "blobs//" + HEX,
    "Blobs/" + HEX,
    "MANIFEST.JSON",
    "blobs/",
    "blobs/%2e%2e%2fx",
    "readme.txt",
    "ü" * 30,
    "x" * 4096,
    "",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_member_with_another_name_is_refused(tmp_path: Path, name: str) -> None:
    path, members = sample(tmp_path)
    pack(path, [*members, (zipfile.ZipInfo(name) if name else zipfile.ZipInfo("x"), b"x")])
    if not name:
        data = path.read_bytes().replace(b"PK\1\2", b"PK\1\3", 1)
        path.write_bytes(data)
    with pytest.raises(UntrustedError):
        open_bundle(path)


def test_a_name_cut_by_nul_is_refused(tmp_path: Path) -> None:
    path, members = sample(tmp_path)
    pack(path, [*members, ("blobs/" + HEX + "Qevil", b"x")])
    path.write_bytes(path.read_bytes().replace(b"Qevil", b"\0evil"))
    with pytest.raises(UntrustedError):
        open_bundle(path)


def test_a_duplicate_member_is_refused(tmp_path: Path) -> None:
    path, members = sample(tmp_path)
    for double in (members[0], members[-1]):
        pack(path, [*members, double])
        with pytest.raises(UntrustedError, match="appears twice"):
            open_bundle(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_cannot_be_a_bomb(tmp_path: Path, method: int) -> None:
    path, members = sample(tmp_path)
    pack(path, [*members, ("blobs/" + HEX, b"\0" * 10_000_000)], compression=method)
    with pytest.raises(UntrustedError, match="compressed"):
        open_bundle(path)


def flagged(mode: int, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("blobs/" + HEX)
    info.create_system = system
    info.external_attr = mode
    return info


@pytest.mark.parametrize("mode", [0o120777 << 16, 0o040755 << 16, 0o020666 << 16, 0o010644 << 16, 0x10])
def test_a_member_that_is_a_link_folder_or_device_is_refused(tmp_path: Path, mode: int) -> None:
    path, members = sample(tmp_path)
    pack(path, [*members, (flagged(mode), b"/etc/passwd")])
    with pytest.raises(UntrustedError, match="link, a folder or a device"):
        open_bundle(path)


def patched(path: Path, sign: bytes, at: int, form: str, value: int) -> None:
    """Overwrite a field of the last record that starts with `sign`."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.rindex(sign) + at, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("sign", "at", "form", "value"),
    [
        pytest.param(b"PK\1\2", 8, "<H", 1, id="encrypted"),
        pytest.param(b"PK\3\4", 6, "<H", 1, id="encrypted in the local header"),
        pytest.param(b"PK\1\2", 8, "<H", 8, id="data descriptor"),
        pytest.param(b"PK\1\2", 10, "<H", 8, id="compressed in the directory only"),
        pytest.param(b"PK\3\4", 8, "<H", 8, id="compressed in the local header only"),
        pytest.param(b"PK\1\2", 24, "<L", 0xFFFFFFF0, id="size of 4 GiB"),
        pytest.param(b"PK\1\2", 24, "<L", 0xFFFFFFFF, id="size to be found in a missing Zip64 field"),
        pytest.param(b"PK\3\4", 22, "<L", 1, id="two sizes"),
        pytest.param(b"PK\1\2", 42, "<L", 0, id="two members in one place"),
        pytest.param(b"PK\1\2", 42, "<L", 0x7FFFFFFF, id="header beyond the file"),
        pytest.param(b"PK\1\2", 28, "<H", 0xFFFF, id="name beyond the directory"),
        pytest.param(b"PK\1\2", 34, "<H", 1, id="on another disk"),
        pytest.param(b"PK\5\6", 10, "<H", 0xFFFE, id="65534 members"),
        pytest.param(b"PK\5\6", 10, "<H", 0xFFFF, id="Zip64 without its records"),
        pytest.param(b"PK\5\6", 12, "<L", 0x7FFFFFFF, id="directory of 2 GiB"),
        pytest.param(b"PK\5\6", 16, "<L", 0, id="directory elsewhere"),
        pytest.param(b"PK\5\6", 20, "<H", 5, id="comment"),
    ],
)
def test_a_directory_that_lies_is_refused(tmp_path: Path, sign: bytes, at: int, form: str, value: int) -> None:
    path, _ = sample(tmp_path)
    patched(path, sign, at, form, value)
    with pytest.raises(UntrustedError):
        open_bundle(path)


@pytest.mark.parametrize(
    "change",
    [lambda data: b"MZ" + data, lambda data: data + b"x", lambda data: data[:-1], lambda data: data[: len(data) // 2]],
)
def test_bytes_before_or_after_and_a_cut_file_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path, _ = sample(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises((UntrustedError, InvalidError)):
        open_bundle(path)


def test_a_member_inside_another_is_refused(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    pack(inner, [("blobs/" + HEX, b"x")])
    whole = inner.read_bytes()
    start, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    pack(outer, [("manifest.json", whole[:start])])
    entry = bytearray(whole[start:end])
    struct.pack_into("<L", entry, 42, 30 + len("manifest.json"))
    data = bytearray(outer.read_bytes())
    end = data.index(b"PK\5\6")
    struct.pack_into("<2HL", data, end + 8, 2, 2, end - data.index(b"PK\1\2", 43 + start) + len(entry))
    outer.write_bytes(data[:end] + entry + data[end:])
    with outer.open("rb") as file, pytest.raises(UntrustedError, match="overlaps"):
        read_members(file.fileno(), limit=9)


def test_bytes_hidden_between_members_are_refused(tmp_path: Path) -> None:
    path, _ = sample(tmp_path)
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    path.write_bytes(data[:start] + b"hidden" + data[start:])
    patched(path, b"PK\5\6", 16, "<L", start + 6)
    with pytest.raises(UntrustedError, match="no member"):
        open_bundle(path)


def test_more_members_than_the_limit_are_refused(tmp_path: Path) -> None:
    path, members = sample(tmp_path)
    with path.open("rb") as file:
        assert len(read_members(file.fileno(), limit=len(members))) == len(members)
        with pytest.raises(UntrustedError, match=f"limit of {len(members) - 1}"):
            read_members(file.fileno(), limit=len(members) - 1)


def test_more_than_65535_members_are_read(tmp_path: Path) -> None:
    pack(tmp_path / "z", [("manifest.json", b"{}"), *((f"blobs/{i:064x}", b"") for i in range(65_535))])
    with (tmp_path / "z").open("rb") as file:
        assert len(read_members(file.fileno(), limit=limits.MAX_BLOBS)) == 65_536


def test_a_claimed_size_of_2_to_the_63_is_refused(tmp_path: Path) -> None:
    path, members = sample(tmp_path)
    info = zipfile.ZipInfo("blobs/" + HEX)
    info.extra = struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)
    pack(path, [*members, (info, b"x")])
    for sign, at in ((b"PK\1\2", 20), (b"PK\1\2", 24)):
        patched(path, sign, at, "<L", 0xFFFFFFFF)
    with pytest.raises(UntrustedError):
        open_bundle(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\3\4", b"\x08\x09", b"PK\5\6" + b"\0" * 18, b"PK\3\4" + b"\0" * 500]
)
def test_a_file_that_is_no_bundle_is_named_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.tilth").write_bytes(content)
    with pytest.raises((InvalidError, UntrustedError), match="not a bundle"):
        open_bundle(tmp_path / "m.tilth")


def test_nothing_and_a_pipe_are_named_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UntrustedError):
        open_bundle(tmp_path / "pipe")
    with pytest.raises(MissingError, match="tilth import"):
        open_bundle(tmp_path / "none")


def with_manifest(path: Path, data: bytes) -> Path:
    _, *rest = members_of(path)
    pack(path, [("manifest.json", data), *rest])
    return path


def edited(**fields: Any) -> bytes:
    return canonical_json({**to_json(manifest_of(split(model(), None))[0]), **fields})


GOOD = edited()
DEEP = b'{"notes":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        pytest.param(GOOD.strip(), UntrustedError, "canonical", id="no line feed"),
        pytest.param(GOOD.replace(b'":', b'": ', 1), UntrustedError, "canonical", id="a space"),
        pytest.param(json.dumps(json.loads(GOOD)).encode(), UntrustedError, "canonical", id="other order"),
        pytest.param(b'{"name":"evil",' + GOOD[1:], UntrustedError, "canonical", id="double key"),
        pytest.param(GOOD.replace(b'"sample"', b'"s\\u0061mple"'), UntrustedError, "canonical", id="escaped"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, UntrustedError, "JSON", id="byte order mark"),
        pytest.param(GOOD.replace(b'"sample"', b"NaN"), UntrustedError, "JSON", id="NaN"),
        pytest.param(GOOD.replace(b'"sample"', b"1" * 5000), UntrustedError, "JSON", id="endless number"),
        pytest.param(b"\xff\xfe", UntrustedError, "JSON", id="not UTF-8"),
        pytest.param(b"", UntrustedError, "JSON", id="empty"),
        pytest.param(DEEP, UntrustedError, "nests too deeply", id="100,000 lists in one another"),
        pytest.param(b"[" + b"[]," * 2_000_001 + b"[]]\n", UntrustedError, "lists and objects", id="many lists"),
        pytest.param(b"[]\n", InvalidError, "schema", id="a list"),
        pytest.param(edited(schema="tilth.bundle/2"), UnsupportedError, "upgrade Tilth", id="newer"),
        pytest.param(edited(schema="tilth.bundle/0"), InvalidError, "schema", id="older than the first"),
        pytest.param(edited(schema="other/1"), InvalidError, "schema", id="another schema"),
        pytest.param(edited(extra=1), InvalidError, "manifest.extra", id="unknown field"),
        pytest.param(edited(name=7), InvalidError, "manifest.name", id="wrong type"),
        pytest.param(edited(graphs=[]), UntrustedError, "no graph", id="no graph"),
        pytest.param(edited(blobs={}), UntrustedError, "not listed", id="nothing listed"),
        pytest.param(edited(blobs={"../../x": 1}), UntrustedError, "not a digest", id="a path for a digest"),
        pytest.param(edited(blobs={HEX.upper(): 1}), UntrustedError, "not a digest", id="upper case"),
        pytest.param(edited(blobs={"sha256:" + HEX: 1}), UntrustedError, "not a digest", id="prefix"),
        pytest.param(edited(blobs={HEX: -1}), UntrustedError, "-1 bytes", id="negative size"),
        pytest.param(edited(blobs={HEX: 1 << 63}), UntrustedError, "beyond", id="2^63 bytes"),
        pytest.param(
            edited(blobs={f"{i:064x}": 0 for i in range(100_001)}), UntrustedError, "more than", id="too many blobs"
        ),
    ],
)
def test_a_manifest_with_another_meaning_or_form_is_refused(
    tmp_path: Path, data: bytes, error: type[TilthError], said: str
) -> None:
    path, _ = sample(tmp_path)
    with pytest.raises(error) as caught:
        open_bundle(with_manifest(path, data))
    assert said in str(caught.value)


def test_a_manifest_beyond_64_mebibytes_is_refused(tmp_path: Path) -> None:
    pack(tmp_path / "m.tilth", [("manifest.json", b" " * (limits.MAX_MANIFEST_BYTES + 1))])
    with pytest.raises(UntrustedError, match="67108865 bytes"):
        open_bundle(tmp_path / "m.tilth")
    with pytest.raises(UntrustedError):
        decode_manifest(b" " * (limits.MAX_MANIFEST_BYTES + 1))


def hostile_bundle(path: Path, manifest: Manifest, blobs: dict[str, bytes]) -> Path:
    """Write a bundle without any of the checks of `write_bundle`."""
    data = canonical_json(to_json(manifest))
    pack(path, [("manifest.json", data), *((f"blobs/{name}", blob) for name, blob in sorted(blobs.items()))])
    return path


def test_a_swapped_blob_of_equal_size_is_refused(tmp_path: Path) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    name = digest(WEIGHTS.tobytes())
    path = hostile_bundle(tmp_path / "m.tilth", manifest, {**blobs, name: (WEIGHTS + 1).tobytes()})
    with open_bundle(path) as bundle:
        for use in (bundle.blob, lambda _: bundle.verify()):
            with pytest.raises(UntrustedError, match="holds other bytes"):
                use(name)
        with pytest.raises(UntrustedError, match="holds other bytes"):
            bundle.materialise(manifest.graph.digest, tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("change", ["missing", "extra", "longer"])
def test_blobs_that_are_not_those_of_the_manifest_are_refused(tmp_path: Path, change: str) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    name = digest(WEIGHTS.tobytes())
    if change == "missing":
        del blobs[name]
    else:
        blobs[HEX if change == "extra" else name] = WEIGHTS.tobytes() + b"x"
    with pytest.raises(UntrustedError):
        open_bundle(hostile_bundle(tmp_path / "m.tilth", manifest, blobs))


def with_skeleton(path: Path, change: Callable[[ModelProto], None]) -> tuple[Path, str]:
    """Write a bundle whose skeleton was changed, with digests and facts that fit."""
    manifest, blobs = manifest_of(split(model(), None))
    skeleton = ModelProto.FromString(blobs.pop(manifest.graph.digest))
    change(skeleton)
    data = skeleton.SerializeToString()
    blobs[digest(data)] = data
    graph = replace(manifest.graph, digest=digest(data))
    sizes = {name: len(blob) for name, blob in blobs.items()}
    return hostile_bundle(path, replace(manifest, graphs=(graph,), blobs=sizes), blobs), graph.digest


def entry(key: str, value: str) -> Callable[[ModelProto], None]:
    def change(skeleton: ModelProto) -> None:
        for item in skeleton.graph.initializer[0].external_data:
            if item.key == key:
                item.value = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(entry("location", "../../etc/passwd"), id="climbing"),
        pytest.param(entry("location", "/etc/passwd"), id="absolute"),
        pytest.param(entry("location", "*/_ORT_MEM_ADDR_/*"), id="memory address"),
        pytest.param(entry("location", HEX), id="a blob that is not there"),
        pytest.param(entry("location", "manifest.json"), id="the manifest"),
        pytest.param(entry("offset", "4096"), id="offset"),
        pytest.param(entry("length", "4096"), id="length"),
        pytest.param(lambda skeleton: skeleton.graph.initializer[0].dims.append(2), id="shape"),
        pytest.param(lambda skeleton: skeleton.graph.node.add(op_type="X", domain="evil"), id="unknown domain"),
        pytest.param(lambda skeleton: skeleton.ClearField("graph"), id="no graph"),
        pytest.param(lambda skeleton: skeleton.graph.node.add(op_type="Relu", input=["x"], output=["r"]), id="facts"),
    ],
)
def test_a_skeleton_that_reaches_out_or_contradicts_is_refused(
    tmp_path: Path, change: Callable[[ModelProto], None]
) -> None:
    path, name = with_skeleton(tmp_path / "m.tilth", change)
    with open_bundle(path) as bundle:
        with pytest.raises(TilthError):
            bundle.skeleton(name)
        with pytest.raises(TilthError):
            bundle.materialise(name, tmp_path / "new")
        with pytest.raises(TilthError):
            bundle.verify()
    assert not (tmp_path / "new").exists()


def test_a_skeleton_may_refer_to_blobs_of_the_right_size_and_only_from_weights() -> None:
    parts = split(model(), None)
    skeleton, sizes = ModelProto.FromString(parts.skeleton), parts.graph.weights
    check_model(skeleton, None, blobs=sizes)
    for wrong in ({}, {name: size + 1 for name, size in sizes.items()}):
        with pytest.raises(UntrustedError, match="refers to blob"):
            check_model(skeleton, None, blobs=wrong)
    shape = skeleton.graph.node.add(op_type="ConstantOfShape", input=["b"], output=["s"])
    shape.attribute.add(name="value", type=4).t.CopyFrom(skeleton.graph.initializer[0])
    with pytest.raises(UntrustedError, match="refers to blob"):
        check_model(skeleton, None, blobs=sizes)


def test_a_skeleton_that_is_no_model_is_refused(tmp_path: Path) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    blobs[digest(b"junk\xff")] = b"junk\xff"
    graph = replace(manifest.graph, digest=digest(b"junk\xff"))
    sizes = {name: len(blob) for name, blob in blobs.items()}
    path = hostile_bundle(tmp_path / "m.tilth", replace(manifest, graphs=(graph,), blobs=sizes), blobs)
    with open_bundle(path) as bundle, pytest.raises(InvalidError):
        bundle.skeleton(graph.digest)


def test_unknown_fields_of_a_skeleton_are_not_handed_to_engines(tmp_path: Path) -> None:
    manifest, blobs = manifest_of(split(model(), None))
    data = blobs.pop(manifest.graph.digest) + b"\xba\x3e\x04evil"
    blobs[digest(data)] = data
    graph = facts(ModelProto.FromString(data), digest(data))
    sizes = {name: len(blob) for name, blob in blobs.items()}
    path = hostile_bundle(tmp_path / "m.tilth", replace(manifest, graphs=(graph,), blobs=sizes), blobs)
    with open_bundle(path) as bundle:
        assert b"evil" not in bundle.materialise(graph.digest, tmp_path / "new").read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [3, 64]},
        {"shape": [-2, -64]},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": [1] * 40},
        {"dtype": "float64"},
        {"dtype": "object"},
        {"dtype": "complex64"},
    ],
)
def test_a_golden_array_that_contradicts_its_bytes_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    path, _ = sample(tmp_path)
    value = json.loads(GOOD)
    value["golden"]["cases"][0]["inputs"]["x"].update(fields)
    with pytest.raises((UntrustedError, InvalidError)):
        open_bundle(with_manifest(path, canonical_json(value)))


@pytest.mark.parametrize("data", [b'["a"]', b'["a", "b"]\n', b'["a"]\n', b'["a",1]\n', b'{"a":"b"}\n', b"\xff", b"["])
def test_golden_texts_of_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(UntrustedError):
        decode_array(Array("string", (2,), digest(data)), data)


def test_a_truth_value_that_is_neither_is_refused() -> None:
    with pytest.raises(UntrustedError, match="truth value"):
        decode_array(Array("bool", (2,), HEX), b"\1\2")


def folder_sample(folder: Path) -> tuple[Path, Path]:
    write_sample(folder / "m.tilth", folder=True)
    return folder / "m.tilth", folder / "m.tilth" / "blobs" / digest(WEIGHTS.tobytes())


def elsewhere(blob: Path) -> Path:
    return next(folder for folder in blob.parents if folder.name == "m.tilth").parent / "elsewhere"


def as_symlink(blob: Path) -> None:
    blob.rename(elsewhere(blob))
    blob.symlink_to(elsewhere(blob))


def as_hard_link(blob: Path) -> None:
    elsewhere(blob).hardlink_to(blob)


def as_pipe(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


def as_folder(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()


@pytest.mark.parametrize("attack", [as_symlink, as_hard_link, as_pipe, as_folder])
def test_a_blob_that_is_a_link_or_device_is_refused(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    path, blob = folder_sample(tmp_path)
    attack(blob)
    with pytest.raises(UntrustedError):
        open_bundle(path)


@pytest.mark.parametrize("attack", [as_symlink, as_hard_link, as_pipe, as_folder])
def test_a_blob_that_becomes_a_link_after_opening_is_refused(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    path, blob = folder_sample(tmp_path)
    with open_bundle(path) as bundle:
        attack(blob)
        with pytest.raises(UntrustedError):
            bundle.blob(blob.name)


@pytest.mark.parametrize("attack", [as_symlink, as_hard_link, as_pipe, as_folder])
def test_a_manifest_that_is_a_link_or_device_is_refused(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    path, _ = folder_sample(tmp_path)
    attack(path / "manifest.json")
    with pytest.raises(UntrustedError):
        open_bundle(path)


def test_a_blobs_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path, _ = folder_sample(tmp_path)
    (path / "blobs").rename(tmp_path / "elsewhere")
    (path / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UntrustedError):
        open_bundle(path)


@pytest.mark.parametrize("name", ["model.pkl", ".hidden", "blobs/x.pkl", f"blobs/{HEX.upper()}", f"blobs/{HEX[:63]}"])
def test_a_folder_with_other_names_is_refused(tmp_path: Path, name: str) -> None:
    path, _ = folder_sample(tmp_path)
    (path / name).write_bytes(b"x")
    with pytest.raises((InvalidError, UntrustedError)):
        open_bundle(path)


def test_a_blob_changed_after_opening_is_refused(tmp_path: Path) -> None:
    path, blob = folder_sample(tmp_path)
    with open_bundle(path) as bundle:
        bundle.blob(blob.name)
        blob.write_bytes((WEIGHTS + 1).tobytes())
        with pytest.raises(UntrustedError):
            bundle.blob(blob.name)
        blob.write_bytes(b"short")
        with pytest.raises(UntrustedError):
            bundle.blob(blob.name)
        blob.unlink()
        with pytest.raises(MissingError):
            bundle.blob(blob.name)
