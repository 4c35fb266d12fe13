"""The parent's handle on one child process: limits on time and memory, and its last words when it dies."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilth.core.errors import UnavailableError

_POLL_S = 0.05
_LAST_WORDS_BYTES = 4096
_MOST_REPLY_BYTES = 256 << 20
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class WorkerFailed(Exception):
    """The child answered an error, died, hung or outgrew its memory.

    `last_words` is the end of what it printed; `error` the error that it answered, as `TilthError.as_json` gives it.
    """

    def __init__(self, reason: str, last_words: str = "", error: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.last_words = last_words
        self.error = error


class Worker:
    """A child process. `command` starts it, with the numbers of its command and reply pipes appended.

    `memory_bytes` bounds its resident memory; going over it kills it.
    """

    def __init__(self, command: Sequence[str], log: Path, memory_bytes: int) -> None:
        self._log = log
        self._memory_bytes = memory_bytes
        self._reason = ""
        command_read, self._commands = os.pipe()
        self._replies, reply_write = os.pipe()
        fds = (command_read, reply_write)
        try:
            with log.open("wb") as out:
                self._process = subprocess.Popen(
                    [*command, str(command_read), str(reply_write)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=fds,
                )
        finally:
            for fd in fds:
                os.close(fd)
        self._buffer = b""
        self._watch = threading.Thread(target=self._watch_memory, daemon=True)
        self._watch.start()

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        """Send one command and return its answer.

        Raises:
            WorkerFailed: the child said no, died, or took longer than `timeout_s` (it is killed then).
        """
        line = (json.dumps({"do": do, **arguments}) + "\n").encode()
        try:
            _write_all(self._commands, line)
        except OSError:
            raise self._failed() from None
        reply = json.loads(self._read_line(time.monotonic() + timeout_s, do, timeout_s))
        if "error" in reply:
            error = reply["error"]
            raise WorkerFailed(f"{error['what']}: {error['why']}" if error["why"] else error["what"], error=error)
        return reply["ok"]

    def close(self) -> None:
        """End the child and give back what it held."""
        self._kill("")
        self._process.wait()
        self._watch.join()
        for fd in (self._commands, self._replies):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._commands = self._replies = -1

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def _read_line(self, deadline: float, do: str, timeout_s: float) -> bytes:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                self._kill(f"`{do}` took longer than {timeout_s:.0f} s")
                raise self._failed()
            if not select.select([self._replies], [], [], left)[0]:
                continue
            block = os.read(self._replies, 1 << 16)
            if not block or len(self._buffer) > _MOST_REPLY_BYTES:
                raise self._failed()
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _failed(self) -> WorkerFailed:
        try:
            code: int | None = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._kill("closed its pipe and went on running")
            code = self._process.wait()
        return WorkerFailed(self._reason or _how_it_ended(code), last_words(self._log))

    def _kill(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self._process.poll() is None:
            self._process.kill()

    def _watch_memory(self) -> None:
        path = f"/proc/{self._process.pid}/statm"
        page = os.sysconf("SC_PAGE_SIZE")
        while self._process.poll() is None:
            try:
                resident = int(Path(path).read_text(encoding="ascii").split()[1]) * page
            except (OSError, IndexError, ValueError):
                return
            if resident > self._memory_bytes:
                self._kill(f"used {resident >> 20} MiB of memory, over its limit of {self._memory_bytes >> 20} MiB")
                return
            time.sleep(_POLL_S)


def memory_bytes(pid: int) -> int:
    """Return the proportional set size of a process in bytes: shared pages count once over all processes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def last_words(log: Path) -> str:
    """Return the end of a log as plain text, without control characters."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LAST_WORDS_BYTES))
            return _CONTROL.sub("", file.read().decode(errors="replace")).strip()
    except OSError:
        return ""


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was ended by {name}"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def start(command: Sequence[str], log: Path, memory_bytes: int) -> Worker:
    """Start a worker.

    Raises:
        UnavailableError: the operating system cannot start a process.
    """
    try:
        return Worker(command, log, memory_bytes)
    except OSError as error:
        raise UnavailableError(
            "cannot start a process to measure in", why=str(error), hint="free memory or raise the process limit"
        ) from None
