"""Blobs in a folder of this machine: `ab/abcdef...`, two digits of the digest first.

obstore's own store for local files does not sync what it writes, so that a power cut could take what was acknowledged.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tilth.core.errors import MissingError, UnavailableError

_NAME = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20
_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FolderStore:
    """A blob store in `folder`, which is made where it is not there, for its owner alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = str(folder)
        #: Folders of this one whose own names are known to be on the disk.
        self._durable: set[str] = set()
        #: Blobs that were named here and whose names may not be on the disk.
        self._doubtful: set[str] = set()
        with _clear(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def size(self, digest: str) -> int | None:
        """Return the bytes of a blob, None when it is not there."""
        with _clear(self._folder):
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return None

    def adopt(self, path: Path, digest: str) -> None:
        """Take over a file: it and its name are on the disk when this returns.

        After a sync that failed, the system holds for clean what the disk never got, and the next sync of the same
        file succeeds. So a file that could not be synced is removed, and a name is written anew, not synced again.
        """
        target = self._path(digest)
        with _clear(self._folder):
            self._hold(target.parent)
            try:
                _sync(path)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            if digest not in self._doubtful and self._is_whole(target, path.stat().st_size):
                path.unlink()
            else:
                _move(path, target)
            try:
                _sync(target.parent)
            except OSError:
                self._doubtful.add(digest)
                raise
            self._doubtful.discard(digest)

    def _hold(self, folder: Path) -> None:
        """Make a folder of this one, and its name durable: who made it may have been cut off before that."""
        if folder.name not in self._durable:
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync(self._folder)
            self._durable.add(folder.name)
        elif not folder.is_dir():
            self._durable.discard(folder.name)
            self._hold(folder)

    def _is_whole(self, target: Path, size_bytes: int) -> bool:
        try:
            return target.stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def read(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a blob in blocks of 1 MiB."""
        with _clear(self._folder):
            try:
                file = self._path(digest).open("rb", buffering=0)
            except FileNotFoundError:
                raise MissingError(f"blob {digest[:12]} is not there", why=f"`{self.place}` does not hold it") from None
            with file:
                file.seek(start)
                left = (1 << 62) if end is None else end - start
                while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
                    left -= len(block)
                    yield block

    def drop(self, digest: str) -> None:
        """Remove a blob."""
        with _clear(self._folder), contextlib.suppress(FileNotFoundError):
            self._path(digest).unlink()

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield digest and size of every blob."""
        with _clear(self._folder):
            for folder in sorted(self._folder.iterdir()):
                if len(folder.name) == 2 and folder.is_dir():
                    yield from _blobs_in(folder)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def _blobs_in(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.iterdir()):
        if _NAME.fullmatch(path.name) and path.name.startswith(folder.name):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield path.name, found.st_size


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            with path.open("rb") as source, beside.open("wb") as copy:
                shutil.copyfileobj(source, copy, _BLOCK_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            beside.rename(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        path.unlink()


def _sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _clear(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in _OUT_OF_ROOM
        raise UnavailableError(
            f"blobs in `{folder}` cannot be {'written' if full else 'used'}",
            why=error.strerror or str(error),
            hint="make room on that disk" if full else "check that the folder is there and yours",
        ) from None
