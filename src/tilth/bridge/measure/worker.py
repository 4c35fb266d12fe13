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
#: How often a child that runs is held to its limits: in this time an engine can take tens of MiB.
_WATCH_S = 0.01
#: How long a child that closed its pipe has for ending by itself.
_LAST_BREATH_S = 1.0
_LAST_WORDS_BYTES = 4096
_MOST_REPLY_BYTES = 16 << 20
_MOST_LOG_BYTES = 64 << 20
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class WorkerFailed(Exception):
    """The child answered an error, died, hung, outgrew its memory or did not keep to the protocol.

    `last_words` is the end of what it printed; `error` the error that it answered, as `TilthError.as_json` gives it;
    `outgrew` says that it was ended for its memory.
    """

    def __init__(
        self, reason: str, last_words: str = "", error: dict[str, str] | None = None, *, outgrew: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.last_words = last_words
        self.error = error
        self.outgrew = outgrew


class Worker:
    """A child process. `command` starts it, with the numbers of its command and reply pipes appended.

    `memory_bytes` bounds its resident memory; going over it kills it. It leads a process group of its own, so that
    what it starts ends with it, and an interrupt from the keyboard reaches the parent alone. Once it has answered it
    is stopped until it is called again: threads of engines spin for a while after a call, onnxruntime's for a tenth of
    a second and more, and would take the cores from whoever is timed next.
    """

    def __init__(self, command: Sequence[str], log: Path, memory_bytes: int) -> None:
        self._log = log
        #: Its limit, which may change while it waits.
        self.memory_bytes = memory_bytes
        self._outgrew = False
        self._reason = ""
        self._buffer = b""
        self._ended, self._running = threading.Event(), threading.Event()
        self._running.set()
        with contextlib.ExitStack() as undo:
            command_read, self._commands = _pipe(undo)
            self._replies, reply_write = _pipe(undo)
            with log.open("wb") as out:
                self._process = subprocess.Popen(
                    [*command, str(command_read), str(reply_write)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=(command_read, reply_write),
                    process_group=0,
                )
            undo.pop_all()
        os.close(command_read)
        os.close(reply_write)
        os.set_blocking(self._commands, False)
        self._watch = threading.Thread(target=self._watch_limits, daemon=True)
        self._watch.start()

    def call(self, do: str, timeout_s: float, **arguments: Any) -> Any:
        """Send one command and return its answer.

        Raises:
            WorkerFailed: the child said no, died, or took longer than `timeout_s` (it is killed then).
        """
        deadline = time.monotonic() + timeout_s
        overdue = f"`{do}` took longer than {timeout_s:.3g} s"
        self._signal(signal.SIGCONT)
        self._running.set()
        self._send((json.dumps({"do": do, **arguments}) + "\n").encode(), deadline, overdue)
        reply = _parsed(self._read_line(deadline, overdue))
        self._signal(signal.SIGSTOP)
        self._running.clear()
        if reply is None:
            raise self._stopped("answered something that is not an answer")
        if "error" in reply:
            error = reply["error"]
            raise WorkerFailed(f"{error['what']}: {error['why']}" if error["why"] else error["what"], error=error)
        return reply["ok"]

    def close(self) -> None:
        """End the child and give back what it held. Calling it twice is allowed."""
        self._reaped()
        for fd in (self._commands, self._replies):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._commands = self._replies = -1

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def _send(self, line: bytes, deadline: float, overdue: str) -> None:
        view = memoryview(line)
        while view:
            if not self._waited(self._commands, select.POLLOUT, deadline, overdue):
                continue
            try:
                view = view[os.write(self._commands, view) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._failed() from None

    def _read_line(self, deadline: float, overdue: str) -> bytes:
        while b"\n" not in self._buffer:
            if not self._waited(self._replies, select.POLLIN, deadline, overdue):
                continue
            block = os.read(self._replies, 1 << 16)
            if not block:
                raise self._failed()
            if len(self._buffer) > _MOST_REPLY_BYTES:
                raise self._stopped(f"answered more than {_MOST_REPLY_BYTES >> 20} MiB")
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _waited(self, fd: int, event: int, deadline: float, overdue: str) -> bool:
        """Wait a moment for a pipe and return whether it is ready."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._stopped(overdue)
        poll = select.poll()
        poll.register(fd, event)
        # What a child started may hold its pipes open after its end, so that the pipe alone does not tell.
        ended = self._has_ended()
        ready = bool(poll.poll(0 if ended else min(left, _POLL_S) * 1e3))
        if ended and not ready:
            raise self._failed()
        return ready

    def _stopped(self, reason: str) -> WorkerFailed:
        self._kill(reason)
        return self._failed()

    def _failed(self) -> WorkerFailed:
        patience = time.monotonic() + _LAST_BREATH_S
        while not self._has_ended() and time.monotonic() < patience:
            time.sleep(0.005)
        if not self._has_ended():
            self._kill("it closed its pipe and went on running")
        code = self._reaped()
        return WorkerFailed(self._reason or _how_it_ended(code), last_words(self._log), outgrew=self._outgrew)

    def _reaped(self) -> int:
        """End the child and all that it started, and return how it ended."""
        self._kill("")
        self._ended.set()
        self._running.set()
        self._watch.join()
        return self._process.wait()

    def _has_ended(self) -> bool:
        # Looked at and left in place: until it is waited for, its number is that of no other process or group.
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _kill(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _watch_limits(self) -> None:
        path = Path(f"/proc/{self._process.pid}/statm")
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._has_ended():
            try:
                resident = int(path.read_text(encoding="ascii").split()[1]) * page
                printed = self._log.stat().st_size
            except (OSError, IndexError, ValueError):
                return
            if resident > self.memory_bytes:
                self._outgrew = True
                self._kill(f"used {resident >> 20} MiB of memory, over its limit of {self.memory_bytes >> 20} MiB")
            elif printed > _MOST_LOG_BYTES:
                self._kill(f"printed more than {_MOST_LOG_BYTES >> 20} MiB")
            if self._ended.wait(_WATCH_S):
                return
            self._running.wait()


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


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        undo.callback(os.close, fd)
    return ends


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return an answer, or None when the line is none: `{"ok": ...}`, or `{"error": {"what": ..., ...}}`."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict) or ("ok" not in reply and "error" not in reply):
        return None
    error = reply.get("error")
    if "error" in reply:
        sound = isinstance(error, dict) and all(isinstance(error.get(key), str) for key in ("what", "why", "hint"))
        return reply if sound else None
    return reply


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was ended by {name}"
