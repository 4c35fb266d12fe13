"""Files of arrays: what is written comes back, and what somebody made up does not get far."""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilth.bridge.value_file import MOST_ARRAYS, read_values, write_values
from tilth.core.errors import InvalidError, MissingError

_arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint64, np.bool_]),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)
_names = st.text(st.sampled_from("ab#0/.%é"), min_size=1, max_size=5).filter(lambda name: name.strip("#"))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_names, _arrays, max_size=4))
def test_tensors_come_back_whatever_they_are_called(tmp_path_factory: Any, values: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("values") / "v.npz"
    write_values(path, values)
    back = read_values(path)
    assert set(back) == set(values) and all(same(values[name], back[name]) for name in values)


@pytest.mark.parametrize("name", ["file", "a/b", "../x", "/x", "a#0", "a#1", "a#", "a##0", "#0", "arr_0", "x.npy", "%"])
def test_awkward_names_come_back(tmp_path: Path, name: str) -> None:
    value = np.arange(3)
    write_values(tmp_path / "v.npz", {name: value, "a": [value, value]})
    back = read_values(tmp_path / "v.npz")
    assert same(back[name], value) and len(back["a"]) == 2 and len(back) == 2  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]


def test_sequences_scalars_absent_and_empty_values_come_back(tmp_path: Path) -> None:
    many = [np.full(2, i) for i in range(12)]
    values = {"s": many, "e": [], "n": None, "z": np.float32(2), "f": 1.5, "t": (np.ones(1),), "x": np.zeros((0, 3))}
    write_values(tmp_path / "v.npz", values)  # type: ignore[arg-type]
    back: Any = read_values(tmp_path / "v.npz")
    assert same(back["s"], many) and back["e"] == [] and "n" not in back
    assert back["z"].shape == () and back["f"] == 1.5 and same(back["t"], [np.ones(1)])
    assert back["x"].shape == (0, 3)


@pytest.mark.parametrize("texts", [["a", "é", ""], [["ab"], ["c\nd"]], [], "alone"])
def test_text_comes_back_as_str(tmp_path: Path, texts: Any) -> None:
    write_values(tmp_path / "v.npz", {"t": np.array(texts, dtype=object)})
    back: Any = read_values(tmp_path / "v.npz")["t"]
    assert back.dtype == object and back.tolist() == texts
    assert all(isinstance(item, str) for item in back.ravel())


def test_bytes_from_numpy_become_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", t=np.array([b"a", b"bc"]))
    assert read_values(tmp_path / "v.npz")["t"].tolist() == ["a", "bc"]  # type: ignore[union-attr]
    np.savez(tmp_path / "v.npz", t=np.array([b"\xff"]))
    with pytest.raises(InvalidError):
        read_values(tmp_path / "v.npz")


def test_other_orders_of_bytes_and_axes_become_the_usual_ones(tmp_path: Path) -> None:
    value = np.arange(6, dtype=">i4").reshape(2, 3)
    np.savez(tmp_path / "v.npz", a=value, b=np.asfortranarray(np.arange(6).reshape(2, 3)))
    back: Any = read_values(tmp_path / "v.npz")
    assert back["a"].dtype.isnative and np.array_equal(back["a"], value)
    assert back["b"].flags.c_contiguous and np.array_equal(back["b"], np.arange(6).reshape(2, 3))
    write_values(tmp_path / "w.npz", {"t": np.arange(6).reshape(2, 3).T, "s": np.arange(9)[::3]})
    again: Any = read_values(tmp_path / "w.npz")
    assert np.array_equal(again["t"], np.arange(6).reshape(2, 3).T) and again["s"].tolist() == [0, 3, 6]


def archive(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in members:
            made.writestr(name, data)
    return path


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def plain(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def header(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


BAD = {
    "a claim of 2**63": npy(header("(9223372036854775808,)"), b"1234"),
    "a claim that wraps around": npy(header("(4294967296, 4294967296)"), b"1234"),
    "a claim beyond its data": npy(header("(2,)"), b"1234"),
    "data beyond its claim": npy(header("(1,)"), b"12345678"),
    "a negative size": npy(header("(-1,)"), b"1234"),
    "two negative sizes": npy(header("(-1, -1)"), b"1234"),
    "a size that is no number": npy(header("('a',)"), b"1234"),
    "a shape that is no tuple": npy(header("3"), b"1234"),
    "objects": npy(header("(1,)", "'|O'"), b"\x80\x04N."),
    "a structure": npy(header("(1,)", "[('a', '<f4', (1000000000,))]"), b"1234"),
    "an unknown type": npy(header("(1,)", "'<q9'"), b"1234"),
    "a header that is no literal": npy("__import__('os').getcwd()"),
    "a header that never closes": npy("{'descr': ("),
    "a header that nests deeply": npy("-" * 5000 + "1"),
    "a header in brackets": npy("(" * 3000),
    "a header beyond its data": b"\x93NUMPY\x01\x00\xff\xff{",
    "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "another version": npy(header("(1,)"), b"1234", (9, 0)),
    "no magic": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_member_that_lies_is_refused(tmp_path: Path, kind: str) -> None:
    path = archive(tmp_path / "v.npz", ("x.npy", BAD[kind]))
    with pytest.raises(InvalidError) as caught:
        read_values(path)
    assert str(path) in caught.value.what and caught.value.why and caught.value.hint


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "v.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(InvalidError, match=r"not a readable `\.npz`"):
        read_values(tmp_path / "v.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "v.npz", ("x.npy", plain(1)), ("x.npy", plain(2)))
    with pytest.raises(InvalidError, match="not a readable") as caught:
        read_values(path)
    assert "`x` twice" in caught.value.why
    with pytest.raises(InvalidError):
        read_values(archive(tmp_path / "w.npz", ("x.npy", plain(1)), ("x", plain(2))))


def test_a_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    path = archive(tmp_path / "v.npz", ("x.npy", npy(header("(67108865,)"), bytes(100))))
    data = bytearray(path.read_bytes())
    listed = data.index(b"PK\x01\x02")
    data[listed + 24 : listed + 28] = struct.pack(
        "<I", (256 << 20) + 132
    )  # the size that the member claims to unfold to
    path.write_bytes(data)
    with pytest.raises(InvalidError, match="packed too tightly"):
        read_values(path)


def test_more_arrays_than_anyone_has_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "v.npz", *((f"{i}.npy", b"") for i in range(MOST_ARRAYS + 1)))
    with pytest.raises(InvalidError, match="holds too much"):
        read_values(path)


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "v.npz"
    write_values(path, {"x": np.arange(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep >= 0 else len(data) + keep])
    with pytest.raises(InvalidError):
        read_values(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    write_values(path, {"x": np.arange(1000)})
    data = bytearray(path.read_bytes())
    data[2000] ^= 4
    path.write_bytes(data)
    with pytest.raises(InvalidError):
        read_values(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_refused_or_without_effect(tmp_path_factory: Any, where: int, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("values") / "v.npz"
    write_values(path, {"x": np.arange(4)})
    data = bytearray(path.read_bytes())
    data[where : where + len(noise)] = noise
    path.write_bytes(data)
    try:
        back = read_values(path)
    except InvalidError:
        return
    assert all(isinstance(value, np.ndarray) for value in back.values())


def test_what_is_no_file_is_told_apart_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InvalidError, match="not a readable") as caught:
            read_values(path)
        assert "plain file" in caught.value.why
    with pytest.raises(MissingError, match="there is no file"):
        read_values(tmp_path / "nothing.npz")
    np.save(tmp_path / "one.npy", np.ones(1))
    with pytest.raises(InvalidError):
        read_values(tmp_path / "one.npy")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "v.npz", ("x.npy", plain(1)))
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(InvalidError):
        read_values(path)


def test_text_that_would_lose_its_end_is_not_written(tmp_path: Path) -> None:
    for texts in (["a\0"], [1]):
        with pytest.raises(InvalidError, match="text cannot be written"):
            write_values(tmp_path / "v.npz", {"t": np.array(texts, dtype=object)})
