"""Files and folders that are there whole or not at all."""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tilth.core.errors import MissingError, UnavailableError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP)
#: A leftover this old goes when nobody holds its lock; before that its maker may not have locked it yet.
_LEFTOVER_S = 600.0
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def clear_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turn the errors of the operating system while `path` is written into ones with a next step.

    Raises:
        MissingError: the folder above `path` is not there.
        UnavailableError: the disk is full, the folder cannot be written, or the disk failed.
    """
    try:
        yield
    except FileNotFoundError:
        raise MissingError(
            f"`{path}` cannot be written",
            why=f"the folder `{path.parent}` is not there",
            hint=f"mkdir -p {path.parent}",
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"`{path}` cannot be written",
            why=f"{os.strerror(error.errno or errno.EIO)}; it takes {needed_bytes} bytes",
            hint=_next_step(path, error.errno, needed_bytes),
        ) from error


@contextmanager
def sibling(path: Path, *, folder: bool) -> Iterator[Path]:
    """Make an empty folder or file beside `path`, with a name nobody can guess, and remove it whatever happens.

    Only its owner can read it. Renaming it away is how it stays. What a killed process left of the same kind goes, too.
    """
    # Short enough for file systems that end names at 255 bytes.
    start = f".{path.name[:40]}."
    _sweep(path.parent, start)
    made = path.parent / f"{start}{secrets.token_hex(8)}.tmp"
    with contextlib.ExitStack() as undo:
        undo.callback(discard, made)
        if folder:
            made.mkdir(mode=0o700)
        else:
            new_file(made).close()
        with contextlib.suppress(OSError):  # some network file systems have no locks
            undo.enter_context(_locked(made))
        yield made


def _sweep(folder: Path, start: str) -> None:
    """Remove what killed processes left in `folder` under names of `sibling`."""
    ours = re.compile(re.escape(start) + r"[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError):
        for path in [one for one in folder.iterdir() if ours.fullmatch(one.name)]:
            if time.time() - path.lstat().st_mtime > _LEFTOVER_S:
                with contextlib.suppress(OSError), _locked(path):
                    discard(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder, which ends with the process; OSError when another holds it."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def emptied_on_error(folder: Path) -> Iterator[None]:
    """Remove what is in `folder` when the work in it fails or is interrupted."""
    try:
        yield
    except BaseException:
        for item in folder.iterdir():
            discard(item)
        raise


def new_file(path: Path) -> IO[bytes]:
    """Return a file opened for writing that only its owner can read, and that was not there before."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o600), "wb")


def discard(path: Path) -> None:
    """Remove a file or a whole folder; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(made: Path, path: Path) -> None:
    """Put `made` at `path` in one step, durably; what was there is at `made` or gone afterwards.

    Both are files, or both are folders, and lie in the same folder.
    """
    if made.is_dir() and path.exists():
        _exchange(made, path)
    else:
        made.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    # renameat2(2), Linux 3.15: no moment at which `other` is missing.
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    if swap is not None and swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    aside = one.with_name(one.name + ".old")
    other.rename(aside)
    try:
        one.rename(other)
    except BaseException:
        aside.rename(other)
        raise
    aside.rename(one)


def _next_step(path: Path, code: int | None, needed_bytes: int) -> str:
    if code in _FULL:
        return f"make room: {needed_bytes} bytes are needed in `{path.parent}`"
    if code in _FORBIDDEN:
        return f"make `{path.parent}` a folder that you can write, or write elsewhere"
    return "check the disk, then try again"
