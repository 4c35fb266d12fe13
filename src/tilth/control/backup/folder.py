"""The folder of a backup: whose it is, one writer at a time, and what stands in it, checked as it is read."""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tilth.control.backup.form import MOST_LINE_BYTES, MOST_MANIFEST_BYTES, NAME, Manifest, TableFile, decode
from tilth.core.errors import InvalidError, MissingError, RefusedError, UnavailableError, UntrustedError

_LOCK = "lock"
_OURS = (NAME, _LOCK, "blobs")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder for backups where none is, and keep other writers out until the end.

    Raises:
        RefusedError: something else is in it, others can write to it, or another backup is being written.
        UnavailableError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UnavailableError(f"`{folder}` cannot be written", why=str(error), hint="choose another folder") from None
    try:
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise RefusedError(
                f"`{folder}` is not for its owner alone",
                why="a backup holds all models",
                hint=f"run `chmod 700 {folder}`",
            )
        strange = [one.name for one in folder.iterdir() if not _is_ours(one.name)]
        if strange:
            raise RefusedError(
                f"`{folder}` is not a folder of backups",
                why=f"`{ascii(min(strange))[1:-1]}` is in it",
                hint="name a folder that is empty, or not there yet",
            )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(f"another backup is being written to `{folder}`", hint="wait for its end") from None
        yield
    finally:
        os.close(lock)


def backup_in(folder: Path) -> Manifest | None:
    """Return what the whole backup in a folder says, None when there is none.

    Raises:
        InvalidError: its `backup.json` is not understood.
    """
    try:
        with _opened(folder / NAME) as file:
            data = file.read(MOST_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MOST_MANIFEST_BYTES:
        raise InvalidError("this is not a backup", why=f"its `{NAME}` is too long")
    return decode(data)


def known_backup(folder: Path) -> Manifest:
    """Return what the whole backup in a folder says.

    Raises:
        MissingError: there is none.
        InvalidError: it is not understood.
    """
    found = backup_in(folder)
    if found is None:
        what = "is not whole yet" if folder.is_dir() and any(folder.glob("rows-*")) else "is not there"
        raise MissingError(
            f"the backup in `{folder}` {what}", why=f"it has no `{NAME}`", hint="take one: `tilth backup`"
        )
    return found


def lines(folder: Path, name: str, told: TableFile) -> Iterator[bytes]:
    """Yield the lines of a table's file; behind the last one it is known that the file is what `told` says.

    Raises:
        UntrustedError: it is not, or a line does not end.
    """
    state, size, rows = hashlib.sha256(), 0, 0
    try:
        with _opened(folder / f"{name}.jsonl") as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                state.update(line)
                size, rows = size + len(line), rows + 1
                if len(line) > MOST_LINE_BYTES or not line.endswith(b"\n") or size > told.size_bytes:
                    break
                yield line
    except FileNotFoundError:
        raise UntrustedError(f"table `{name}` of the backup is not there", hint="take another backup") from None
    if (rows, size, state.hexdigest()) != (told.rows, told.size_bytes, told.digest):
        raise UntrustedError(
            f"table `{name}` of the backup is not what was written",
            why="its file hashes to something else",
            hint="it was damaged or changed; use another backup",
        )


def _opened(path: Path) -> IO[bytes]:
    """Open a file that is one: no link that leads elsewhere, no pipe that never ends."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UntrustedError(f"`{path.name}` of the backup is not a file", why=error.strerror or str(error)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UntrustedError(f"`{path.name}` of the backup is not a file", why="it is a pipe, a folder or a device")
    return open(handle, "rb")


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(("rows-", "blob-", f".{NAME}."))
