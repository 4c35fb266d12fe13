"""Named values in `.npz` files: samples, inputs, outputs and labelled data.

A tensor is one array under its name. A sequence is `name#0`, `name#1` and so on, and an empty one is an array without
elements under `name#`. An absent optional has no entry. A tensor whose own name ends like that of a sequence's member
has its last `#` doubled. Strings are stored as numpy's fixed-width text, never as objects.
"""

import itertools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from tilth.core.errors import InvalidError, MissingError
from tilth.ports.arrays import Array, Value, Values

MOST_BYTES = 16 << 30
MOST_ARRAYS = 4096
#: Beyond this size in all, members packed tighter than this are a bomb rather than data.
_PACKED_BYTES, _PACKED_RATIO = 256 << 20, 100
#: A name that would be taken for a member of a sequence, and one that says it is none.
_MEMBER_LIKE = re.compile(r"(.*)#([0-9]*)", re.DOTALL)
_ESCAPED = re.compile(r"(.*)##([0-9]*)", re.DOTALL)


def write_values(path: Path, values: Values) -> None:
    """Write values to an uncompressed `.npz`.

    Raises:
        InvalidError: a text ends with NUL, which numpy's text cannot hold, or a dtype is not one of numpy's own.
        OSError: the file cannot be written.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in entries(values):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _storable(array), allow_pickle=False)


def read_values(path: Path) -> dict[str, Value]:
    """Read values; text comes back as object arrays of `str`, numbers in this machine's byte order.

    Raises:
        MissingError: there is no such file.
        InvalidError: it is not an `.npz` of plain arrays, or larger than 16 GiB.
    """
    if not path.exists():
        raise MissingError(f"there is no file `{path}`", hint="make one with `numpy.savez(path, name=array)`")
    try:
        if not path.is_file():
            # Opening a pipe would wait for a writer, and an archive is read from its end.
            raise ValueError("it is not a plain file")
        with zipfile.ZipFile(path) as archive:
            return grouped(_read_members(archive))
    except InvalidError as error:
        error.what = f"`{path}` {error.what}"
        raise
    except Exception as error:  # zipfile, zlib, numpy and ast raise a dozen classes on damaged bytes
        raise InvalidError(
            f"`{path}` is not a readable `.npz` of plain arrays",
            why=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
            hint="write it with `numpy.savez(path, name=array)`, numbers or text only, no Python objects",
        ) from None


def _storable(array: Array) -> Array:
    if array.dtype.kind == "V" or array.dtype.isbuiltin == 2:  # numpy.dtype: 2 is a type that a package added
        raise InvalidError(
            f"an array of `{array.dtype}` cannot be written",
            why="numpy's file format would keep its bytes and forget its type",
            hint="convert it to a type of numpy's own, such as float32",
        )
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array) if array.ndim else array
    # ONNX strings come as objects; an `S` array would drop what is not ASCII.
    texts = array.astype(str)
    if not np.array_equal(texts.astype(object), array):
        raise InvalidError(
            "an array of text cannot be written",
            why="a text in it ends with NUL, or an element is not text",
            hint="strip it, or convert the elements to str",
        )
    return texts


def entries(values: Values) -> Iterable[tuple[str, Array]]:
    """Yield the arrays of values, each under the name of its entry."""
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, np.ndarray) or np.isscalar(value):
            like = _MEMBER_LIKE.fullmatch(name)
            yield f"{like[1]}##{like[2]}" if like else name, np.asarray(value)
        elif len(value):
            yield from ((f"{name}#{i}", np.asarray(item)) for i, item in enumerate(value))
        else:
            yield f"{name}#", np.empty(0, np.float32)


def _read_members(archive: zipfile.ZipFile) -> dict[str, Array]:
    members = archive.infolist()
    if len(members) > MOST_ARRAYS or sum(m.file_size for m in members) > MOST_BYTES:
        raise InvalidError(
            "holds too much",
            why=f"at most {MOST_ARRAYS} arrays and {MOST_BYTES >> 30} GiB are read",
            hint="use fewer rows",
        )
    _check_packing(members)
    found: dict[str, Array] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise ValueError(f"it holds `{name}` twice")
        found[name] = _read_array(archive, member)
    return found


def _check_packing(members: list[zipfile.ZipInfo]) -> None:
    size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if size > _PACKED_BYTES and size > _PACKED_RATIO * packed:
        raise InvalidError(
            "is packed too tightly",
            why=f"{packed} bytes claim to unfold into {size}",
            hint="write it with `numpy.savez`, which does not compress",
        )


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        _check_header(file, member)
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"`{member.filename}` goes on after its array")
    return _usable(array)


def _usable(array: Array) -> Array:
    if array.dtype.kind in "SU":
        return array.astype(str).astype(object)
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def _check_header(file: IO[bytes], member: zipfile.ZipInfo) -> None:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    claimed = dtype.itemsize
    for dim in shape:
        claimed *= dim
    if claimed > member.file_size or min(shape, default=0) < 0:
        raise InvalidError(
            f"claims {claimed} bytes for `{member.filename}` and holds {member.file_size}",
            why="the header and the data contradict each other",
            hint="the file is damaged; write it again",
        )


def grouped(arrays: Mapping[str, Array]) -> dict[str, Value]:
    """Return the values that entries hold: the reverse of `entries`."""
    firsts = [name for name in arrays if len(name) > 2 and name.endswith("#0") and not _ESCAPED.fullmatch(name)]
    sequences = {name[:-2]: _members(name[:-2], arrays) for name in firsts}
    owners = {member: base for base, members in sequences.items() for member in members}
    values: dict[str, Value] = {}
    for name, array in arrays.items():
        if name in owners:
            values[owners[name]] = [arrays[member] for member in sequences[owners[name]]]
        elif escaped := _ESCAPED.fullmatch(name):
            values[f"{escaped[1]}#{escaped[2]}"] = array
        elif len(name) > 1 and name.endswith("#") and not array.size:
            values[name[:-1]] = []
        else:
            values[name] = array
    return values


def _members(base: str, arrays: Mapping[str, Array]) -> list[str]:
    numbered = (f"{base}#{index}" for index in itertools.count())
    return list(itertools.takewhile(arrays.__contains__, numbered))
