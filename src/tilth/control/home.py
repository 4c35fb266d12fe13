"""The folder of a control plane: what lies where, and that one process has it at a time."""

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.core.errors import RefusedError, UnavailableError

_LOCK = "lock"
_TOLD = "running.json"
_WAIT_S = 0.3


def default_home() -> Path:
    """Return the folder where users keep data: `TILTH_HOME`, or `tilth` in `XDG_DATA_HOME`."""
    given = os.environ.get("TILTH_HOME")
    return Path(given) if given else Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "tilth"


@dataclass(frozen=True)
class Home:
    """Everything that a control plane keeps on this machine, below `folder`."""

    folder: Path

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.folder / "store.db"

    @property
    def blobs(self) -> Path:
        """The folder of blobs, where no other place was given for them."""
        return self.folder / "blobs"

    @property
    def uploads(self) -> Path:
        """What is being uploaded and not verified."""
        return self.folder / "uploads"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder where it is not there, and keep every other process out of it until the end.

        Raises:
            RefusedError: another process has it, or others than its owner can write to it.
            UnavailableError: it cannot be made.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UnavailableError(
                f"`{self.folder}` cannot be used", why=str(error), hint="choose another folder with `--home`"
            ) from None
        try:
            self._take(lock)
            for folder in (self.blobs, self.uploads):
                folder.mkdir(mode=0o700, exist_ok=True)
            yield
        finally:
            # The file stays: to remove it would let a third process lock another one of the same name.
            os.close(lock)

    def tell(self, facts: dict[str, Any]) -> None:
        """Write down what others on this machine may know of the process that has it."""
        beside = self.folder / f"{_TOLD}.new"
        beside.write_text(json.dumps(facts), encoding="utf-8")
        beside.replace(self.folder / _TOLD)

    def forget(self) -> None:
        """Remove what was told."""
        (self.folder / _TOLD).unlink(missing_ok=True)

    def told(self) -> dict[str, Any] | None:
        """Return what the process that has it tells of itself, None when no process has it."""
        if not self.is_held():
            return None
        try:
            found = json.loads((self.folder / _TOLD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def holder(self) -> int | None:
        """Return the process that has it, None when no process has it."""
        if not self.is_held():
            return None
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / _LOCK).read_text(encoding="ascii")[:20])
        return None

    def is_held(self) -> bool:
        """Return whether a process has it."""
        try:
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _check_owner(self) -> None:
        found = self.folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RefusedError(
                f"`{self.folder}` is not for its owner alone",
                why="whoever can write there can make themselves an administrator",
                hint=f"run `chown {os.getuid()} {self.folder}` and `chmod 700 {self.folder}`",
            )

    def _take(self, lock: int) -> None:
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < until:
                    # `tilth status` holds it for a moment, to ask whether somebody else does.
                    time.sleep(0.02)
                    continue
                pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
                raise RefusedError(
                    f"`{self.folder}` is in use",
                    why=f"process {pid or '?'} has it",
                    hint="run `tilth status`, or choose another folder with `--home`",
                ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
