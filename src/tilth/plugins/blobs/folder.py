"""Blobs in a folder of this machine: `ab/abcdef...`, two digits of the digest first.

obstore's own store for local files does not sync what it writes, so that a power cut could take what was acknowledged.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tilth.core.errors import MissingError, UnavailableError

_BLOCK_BYTES = 1 << 20
_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FolderStore:
    """A blob store in `folder`, which is made where it is not there, for its owner alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = str(folder)
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
        """Take over a file: it and its name are on the disk when this returns."""
        target = self._path(digest)
        with _clear(self._folder):
            made = not target.parent.is_dir()
            target.parent.mkdir(mode=0o700, exist_ok=True)
            if made:
                _sync_folder(self._folder)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            if target.exists():
                path.unlink()
            else:
                _move(path, target)
            _sync_folder(target.parent)

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
                    for path in sorted(folder.iterdir()):
                        if len(path.name) == 64:
                            yield path.name, path.stat().st_size

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.{os.getpid()}")
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


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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
