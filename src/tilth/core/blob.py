"""Where the bytes of a blob are, without holding them."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tilth.core.errors import MissingError, UnavailableError, UntrustedError

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRange:
    """`length` bytes of a regular file from `offset` on."""

    path: Path
    offset: int
    length: int


#: Bytes at hand, or bytes in a file. Neither is trusted: whoever stores them hashes them on the way.
BlobSource = bytes | FileRange


def size_of(source: BlobSource) -> int:
    """Return the number of bytes that `source` claims to have."""
    return len(source) if isinstance(source, bytes) else source.length


def sizes_of(blobs: Mapping[str, BlobSource]) -> dict[str, int]:
    """Return the size in bytes by digest, sorted by digest; what `Manifest.blobs` holds."""
    return {name: size_of(blobs[name]) for name in sorted(blobs)}


def chunks_of(source: BlobSource) -> Iterator[bytes]:
    """Yield the bytes of `source` in blocks of at most 1 MiB.

    Raises:
        MissingError: the file is not there.
        UntrustedError: the file is a link or a device, or ends before the range does.
    """
    if isinstance(source, bytes):
        yield from (source[at : at + BLOCK_BYTES] for at in range(0, len(source), BLOCK_BYTES))
        return
    handle = open_regular(source.path)
    try:
        yield from read_range(handle, source.offset, source.length, str(source.path))
    finally:
        os.close(handle)


def bytes_of(source: BlobSource) -> bytes:
    """Return all bytes of `source`; raises what `chunks_of` raises."""
    if isinstance(source, bytes):
        return source
    handle = open_regular(source.path)
    try:
        return read_all(handle, source.offset, source.length, str(source.path))
    finally:
        os.close(handle)


def digest_of(source: BlobSource) -> str:
    """Return the SHA-256 of `source`, read in blocks; raises what `chunks_of` raises."""
    state = hashlib.sha256()
    for block in chunks_of(source):
        state.update(block)
    return state.hexdigest()


def open_regular(path: Path | str, *, parent: int | None = None, follow: bool = False) -> int:
    """Return a descriptor of a regular file, opened for reading without waiting and without following a link.

    Raises:
        MissingError: there is no such file.
        UnavailableError: permission is denied.
        UntrustedError: it is a link, a folder, a pipe or a device.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags, dir_fd=parent)
    except FileNotFoundError:
        raise MissingError(
            f"there is no file `{path}`", why="it is named and not there", hint="check the path"
        ) from None
    except PermissionError:
        raise UnavailableError(
            f"`{path}` cannot be read", why="permission denied", hint="ask for permission to read it"
        ) from None
    except OSError as error:
        raise not_regular(str(path), error.strerror or str(error)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise not_regular(str(path), "it is a folder, a pipe or a device")
    return handle


def not_regular(path: str, why: str) -> UntrustedError:
    """Return the error for something that is not a plain file of its own."""
    return UntrustedError(
        f"`{path[:200]}` is not read",
        why=f"{why}; only plain files that can be read are opened",
        hint="copy the contents into a plain file of its own",
    )


def read_range(handle: int, offset: int, length: int, name: str) -> Iterator[bytes]:
    """Yield `length` bytes of an open file from `offset` on, in blocks of at most 1 MiB.

    Raises:
        UntrustedError: the file ends before.
    """
    end = offset + length
    while offset < end:
        block = os.pread(handle, min(BLOCK_BYTES, end - offset), offset)
        if not block:
            raise _too_short(name, end - offset)
        offset += len(block)
        yield block


def read_all(handle: int, offset: int, length: int, name: str) -> bytes:
    """Return `length` bytes of an open file from `offset` on, held once.

    Raises:
        UntrustedError: the file ends before.
    """
    # Asked of the file first: a claimed length alone must not decide how much memory is taken.
    if offset + length > os.fstat(handle).st_size:
        raise _too_short(name, offset + length - os.fstat(handle).st_size)
    parts, end = [], offset + length
    while offset < end:
        # One call takes at most 2 GiB; joining a single part does not copy it.
        part = os.pread(handle, end - offset, offset)
        if not part:
            raise _too_short(name, end - offset)
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _too_short(name: str, missing: int) -> UntrustedError:
    return UntrustedError(
        f"`{name}` ends {missing} bytes too early",
        why="it was cut short or changed while it was read",
        hint="fetch or make it again",
    )
