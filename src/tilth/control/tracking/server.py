"""The process of a tracking server: started, watched, started again, and ended with the control plane.

It listens on one Unix socket, which this process makes in a folder for its owner alone and hands down: whoever else is
on this machine finds no port to come in by, and what is asked while the server starts again waits in the socket.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tilth.control.tracking.wire import Wire
from tilth.core.errors import TilthError, UnavailableError
from tilth.ports.tracker import Ground, Tracker

_LOG = logging.getLogger("tilth.tracking")
_START_S, _END_S = 120.0, 6.0
_CHECK_S, _CHECKS, _CHECK_LIMIT_S = 15.0, 3, 10.0
_FIRST_PAUSE_S, _MOST_PAUSE_S, _CALM_S = 0.5, 30.0, 60.0
_LOG_BYTES = 16 << 20
_BACKLOG = 256
_SOCKET = "socket"


@dataclass(frozen=True)
class Order:
    """Which tracking server is wanted: what knows it, the Python that has it, and where artifacts go."""

    tracker: Tracker
    python: str
    artifacts: str


class TrackingServer:
    """A tracking server with all that it keeps in `folder`.

    Raises:
        UnavailableError: the folder or the socket cannot be made.
    """

    def __init__(self, order: Order, folder: Path) -> None:
        self.tracker, self._order, self._folder = order.tracker, order, folder
        self.log = folder / "server.log"
        self.ready = asyncio.Event()
        #: Why it does not answer, for people; empty while it does.
        self.why = "it is starting"
        self._process: asyncio.subprocess.Process | None = None
        try:
            for made in (folder, folder / "tmp"):
                made.mkdir(mode=0o700, exist_ok=True)
                made.chmod(0o700)
            # By its descriptor, as the path of a Unix socket has at most 107 bytes and a home may have more.
            self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._socket = _listening(f"/proc/self/fd/{self._handle}/{_SOCKET}")
        except OSError as error:
            raise UnavailableError(f"tracking cannot use `{folder}`", why=error.strerror or str(error)) from None
        self.wire = Wire(f"/proc/self/fd/{self._handle}/{_SOCKET}")

    @property
    def pid(self) -> int:
        """The process's number, 0 when there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def memory_bytes(self) -> int:
        """What the process holds in memory, 0 when there is none."""
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
            return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) << 10
        return 0

    async def run(self) -> None:
        """Keep the server running until this is cancelled, and end it then."""
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._once()
                except TilthError as error:
                    self.why = f"{error.what}; {error.why}"
                except OSError as error:
                    self.why = str(error)
                self.ready.clear()
                pause_s = _FIRST_PAUSE_S if time.monotonic() - began > _CALM_S else min(_MOST_PAUSE_S, pause_s * 2)
                _LOG.warning("tracking does not run: %s; the next start is in %g s", self.why, pause_s)
                await asyncio.sleep(pause_s)
        finally:
            self.ready.clear()
            await asyncio.shield(self._end())

    async def close(self) -> None:
        """Close the socket. The process has ended."""
        await self.wire.close()
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(_SOCKET, dir_fd=self._handle)
        os.close(self._handle)

    async def _once(self) -> None:
        """Start it and watch it until it has ended."""
        began = time.monotonic()
        order = self._order
        ground = Ground(order.python, self._folder, order.artifacts, self._socket.fileno(), os.getpid())
        start = self.tracker.start(ground)
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *start.command,
                env=dict(start.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
                pass_fds=(self._socket.fileno(),),
            )
        try:
            async with self._ended() as ended:
                await self._wait_ready(ended)
                _LOG.info(
                    "%s is ready after %.1f s, with %d MB", self.tracker.name, time.monotonic() - began,
                    self.memory_bytes >> 20,
                )  # fmt: skip
                self.ready.set()
                self.why = ""
                await self._watch(ended)
            self.why = f"it ended by itself; {self._last_words()}"
        finally:
            self.ready.clear()
            await asyncio.shield(self._end())

    @contextlib.asynccontextmanager
    async def _ended(self) -> AsyncIterator["asyncio.Task[int]"]:
        assert self._process is not None  # noqa: S101 - started by the caller
        task = asyncio.get_running_loop().create_task(self._process.wait())
        try:
            yield task
        finally:
            task.cancel()

    async def _wait_ready(self, ended: "asyncio.Task[int]") -> None:
        until = time.monotonic() + _START_S
        # Nobody but this waits meanwhile, so one request is enough: the socket holds it until the server listens.
        while not await self._answers(_START_S):
            if ended.done():
                raise UnavailableError("the tracking server does not start", why=self._last_words())
            if time.monotonic() > until:
                raise UnavailableError("the tracking server does not start", why=f"no answer within {_START_S:g} s")
            await asyncio.sleep(0.1)

    async def _watch(self, ended: "asyncio.Task[int]") -> None:
        """Return when it has ended, or has not answered three times in a row."""
        failed = 0
        while failed < _CHECKS:
            done, _ = await asyncio.wait({ended}, timeout=_CHECK_S)
            if done:
                return
            failed = 0 if await self._answers(_CHECK_LIMIT_S) else failed + 1
        raise UnavailableError("the tracking server hangs", why=f"it did not answer {_CHECKS} times in a row")

    async def _answers(self, limit_s: float) -> bool:
        """Return whether it is ready; False at once when the process ends meanwhile."""
        assert self._process is not None  # noqa: S101 - started by the caller
        asked = asyncio.ensure_future(self.wire.asks(self.tracker.ready, limit_s))
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=limit_s)
            return asked.done() and not asked.cancelled() and asked.result()
        finally:
            for task in (asked, ended):
                task.cancel()
            await asyncio.gather(asked, ended, return_exceptions=True)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            return " ".join(file.read().decode(errors="replace").strip().splitlines()[-2:])[:500]
        return ""


def _listening(path: str) -> socket.socket:
    """Return a listening socket that only its owner can connect to; one that an earlier process left is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Between bind and chmod the folder is what keeps others out.
        made.bind(path)
        os.chmod(path, 0o600)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
