"""Weights outside an ONNX file: where they may lie, and how they are opened."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from tilth.core.blob import not_regular, open_regular
from tilth.core.errors import InvalidError, MissingError, UntrustedError

MAX_LOCATION_CHARS = 1024
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True)
class External:
    """A range of a file below the folder of the model."""

    location: str
    offset: int
    length: int


def external_of(tensor: TensorProto, size_bytes: int) -> External:
    """Return where the `size_bytes` bytes of an external tensor lie; nothing is opened.

    Raises:
        InvalidError: an entry is double, missing or not a number, or the length contradicts the shape.
        UntrustedError: the location is not a plain path below the folder of the model.
    """
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:
            raise _bad(tensor, f"`{entry.key[:40]}` is given twice")
        entries[entry.key] = entry.value
    if "location" not in entries:
        raise _bad(tensor, "it names no location")
    offset = _number(tensor, "offset", entries.get("offset", "0"))
    length = _number(tensor, "length", entries.get("length", str(size_bytes)))
    if length != size_bytes:
        raise _bad(tensor, f"it is {length} bytes long and its shape and type need {size_bytes}")
    return External(checked_location(entries["location"]), offset, length)


def checked_location(location: str) -> str:
    """Return `location` when it is a plain relative path that stays below its folder.

    Raises:
        UntrustedError: it is absolute, climbs, names a drive or address, or has characters that paths lack.
    """
    parts = location.split("/")
    refused = (
        (not location or len(location) > MAX_LOCATION_CHARS, "it is empty or too long"),
        (any(ord(char) < 32 for char in location), "it has a control character"),
        ("\\" in location, "it has a backslash"),
        (bool(_SCHEME.match(location)), "it names a drive or an address"),
        (location.startswith("/"), "it is absolute"),
        (any(part in ("", ".", "..", "*") for part in parts), "it leaves its folder or names no file"),
    )
    for wrong, why in refused:
        if wrong:
            raise UntrustedError(
                f"external data at `{location[:80]!a}` is not read",
                why=f"{why}; weights lie beside the model or below its folder",
                hint="save the model again with its external data beside it",
            )
    return location


@contextmanager
def opened_below(folder: Path, location: str) -> Iterator[int]:
    """Open `folder/location` for reading, where nothing on the way below `folder` is a link.

    Raises:
        MissingError: there is no such file.
        UntrustedError: something on the way is a link, or the file is not a plain file with a single name.
    """
    *folders, name = checked_location(location).split("/")
    handles = [_open_folder(folder, None, folder)]
    try:
        for part in folders:
            handles.append(_open_folder(part, handles[-1], folder / location))
        handles.append(_open_file(name, handles[-1], folder / location))
        yield handles[-1]
    finally:
        for handle in reversed(handles):
            os.close(handle)


def _open_folder(name: Path | str, parent: int | None, shown: Path) -> int:
    # The folder itself is the user's own choice; only what a model names below it must not be a link.
    follow = 0 if parent is None else os.O_NOFOLLOW
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=parent)
    except FileNotFoundError:
        raise _missing(shown) from None
    except OSError as error:
        raise not_regular(str(shown), f"`{name}` on the way is not a folder of its own: {error.strerror}") from None


def _open_file(name: str, parent: int, shown: Path) -> int:
    try:
        handle = open_regular(name, parent=parent)
    except MissingError:
        raise _missing(shown) from None
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise not_regular(str(shown), "it is a hard link, so that another name can change it")
    return handle


def _missing(path: Path) -> MissingError:
    return MissingError(
        f"there is no external data `{str(path)[:200]}`",
        why="the model keeps weights there",
        hint="copy the file of weights to that place, or save the model again",
    )


def _number(tensor: TensorProto, key: str, text: str) -> int:
    value = int(text) if _NUMBER.fullmatch(text) else -1
    if not 0 <= value < 1 << 63:
        raise _bad(tensor, f"its {key} is `{text[:40]}`")
    return value


def _bad(tensor: TensorProto, why: str) -> InvalidError:
    return InvalidError(
        f"the external data of tensor `{tensor.name[:80]}` is wrong",
        why=why,
        hint="save the model again with `onnx.save_model(model, path, save_as_external_data=True)`",
    )
