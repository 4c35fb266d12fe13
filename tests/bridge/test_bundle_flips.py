"""One wrong byte, anywhere in a bundle."""

import random
from pathlib import Path
from typing import Any

import pytest
from bundle_samples import BIAS, WEIGHTS, manifest_of, model, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.skeleton import split
from tilth.core.errors import TilthError


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("flip") / "m.tilth"
    small = split(model(tensor("w", WEIGHTS[:, :16].copy()), tensor("b", BIAS[:16].copy())), None)
    write_bundle(path, *manifest_of(small))
    return path, path.read_bytes()


def content(path: Path) -> tuple[Any, ...]:
    with open_bundle(path) as bundle:
        bundle.verify()
        return (bundle.digest, bundle.manifest, {name: bundle.blob(name) for name in bundle.manifest.blobs})


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(packed: tuple[Path, bytes], data: st.DataObject) -> None:
    path, good = packed
    path.write_bytes(good)
    wanted = content(path)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(flipped)
    try:
        found = content(path)
    except TilthError:
        return
    assert found == wanted


def test_a_flipped_byte_in_every_blob_and_in_the_manifest_is_found(packed: tuple[Path, bytes]) -> None:
    path, good = packed
    path.write_bytes(good)
    with open_bundle(path) as bundle:
        ranges = [bundle.source(name) for name in bundle.manifest.blobs]
    chance = random.Random(3)  # noqa: S311
    places = [item.offset + chance.randrange(item.length) for item in ranges for _ in range(5)]
    places += [43 + chance.randrange(good.index(b"\n") - 43) for _ in range(50)]
    for at in places:
        flipped = bytearray(good)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(TilthError):
            content(path)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_after_the_magic_never_crash_the_reader(packed: tuple[Path, bytes], noise: bytes) -> None:
    path = packed[0].with_name("noise.tilth")
    path.write_bytes(b"PK\3\4" + noise + b"PK\5\6" + noise[:18].ljust(18, b"\0"))
    with pytest.raises(TilthError):
        open_bundle(path)
