"""The workers: started together, told the same, and replaced when they die."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.core.errors import TilthError, UnavailableError
from tilth.serve.background import Background
from tilth.serve.frame import raised
from tilth.serve.logs import Log
from tilth.serve.plan import respawn_after_s
from tilth.serve.process import Process, how_it_ended
from tilth.serve.sentinel import Sentinel

_START_S = 30.0
#: After how long without a sign of life a worker counts as hanging.
_SILENT_S = 10.0
#: How often in a row a worker may end at the start of a server.
_MOST_STARTS = 3


@dataclass
class Worker:
    """One worker: its process, whether it takes orders, and whether its doors are open."""

    index: int
    process: Process
    up: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    heard: float = field(default_factory=time.monotonic)
    tickets: dict[int, "asyncio.Future[dict[str, Any]]"] = field(default_factory=dict)
    #: Slots of versions that it loads, by ticket: the first is to blame when it dies and no call runs.
    loading: dict[int, int] = field(default_factory=dict)


class Fleet:
    """Keeps `count` workers running, each with a listening socket of `fds`.

    `asked` is told what a worker asks for, `blamed` which slot ran when one died; `revive` brings a new one up to what
    the others serve.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        config: Mapping[str, Any],
        fds: Sequence[int],
        runtime: Path,
        log: Log,
        asked: Callable[[Worker, dict[str, Any]], None],
        blamed: Callable[[int, str], None],
        revive: Callable[[Worker], Any],
        background: Background,
    ) -> None:
        self._command, self._config, self._fds, self._runtime, self._log = command, dict(config), fds, runtime, log
        self._asked, self._blamed, self._revive = asked, blamed, revive
        self._count = count
        self.workers: dict[int, Worker] = {}
        self._sentinels = [Sentinel(runtime / f"sentinel-{index}") for index in range(count)]
        self._numbers = itertools.count(1)
        self._deaths = [0] * count
        self._reasons: dict[int, str] = {}
        self.closing = False
        self._looked = time.monotonic()
        self._background = background

    async def start(self) -> None:
        """Start all workers, bring them up to what is served, and wait until their doors are open.

        Raises:
            UnavailableError: one does not start.
        """
        for worker in await asyncio.gather(*(self._spawn(index) for index in range(self._count))):
            self._background.begin(self._welcome(worker), "start of a worker")
        end = time.monotonic() + _START_S
        while not all(worker.open.is_set() for worker in self.workers.values()):
            failed = max(self._deaths) >= _MOST_STARTS
            if failed or time.monotonic() > end:
                why = f"it ended {_MOST_STARTS} times" if failed else f"it took longer than {_START_S:g} s"
                self.kill()
                raise UnavailableError("a worker does not start", why=why, hint="what it said is above")
            await asyncio.sleep(0.01)

    async def _spawn(self, index: int) -> Worker:
        config = {**self._config, "index": index, "http_fd": self._fds[index]}
        fds = [fd for fd in (config["http_fd"], config["manage_fd"]) if fd is not None]
        process = await Process.start(self._command, config, None, fds)
        worker = self.workers[index] = Worker(index, process)
        self._background.begin(self._live(worker), "life of a worker")
        return worker

    async def _live(self, worker: Worker) -> None:
        async for message in worker.process.messages():
            worker.heard = time.monotonic()
            match message.get("event"):
                case "up":
                    worker.up.set()
                case "open":
                    worker.open.set()
                case "done":
                    future = worker.tickets.pop(message["ticket"], None)
                    if future is not None and not future.done():
                        future.set_result(message)
                case "ask":
                    self._asked(worker, message)
        code = await worker.process.ended()
        for future in worker.tickets.values():
            if not future.done():
                future.set_result({"gone": True})
        if not self.closing:
            await self._replace(worker, code)

    async def _replace(self, worker: Worker, code: int) -> None:
        index = worker.index
        lived_s = time.monotonic() - worker.process.born
        self._deaths[index] = self._deaths[index] + 1 if lived_s < 5 else 1
        ran = self._sentinels[index].running()
        self._sentinels[index].leave()
        why = self._reasons.pop(index, "") or how_it_ended(code)
        to_blame = [ran[0]] if ran is not None else list(worker.loading.values())
        if to_blame:
            self._blamed(to_blame[0], why)
        self._log.write("error", "worker ended", worker=index, why=why, lived_s=round(lived_s, 1))
        await asyncio.sleep(respawn_after_s(lived_s, self._deaths[index]))
        while not self.closing:
            try:
                fresh = await self._spawn(index)
            except OSError as error:
                self._log.write("error", "worker does not start", worker=index, why=str(error))
                await asyncio.sleep(1)
            else:
                await self._welcome(fresh)
                return

    async def _welcome(self, fresh: Worker) -> None:
        """Let a worker in when it serves what the others do: who is let in before would find no models."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fresh.up.wait(), _START_S)
        if not fresh.process.alive:
            return
        if not fresh.up.is_set():
            self._end(fresh, f"it took longer than {_START_S:g} s to start")
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._revive(fresh), _START_S)
        fresh.process.send({"do": "open"})

    async def tell(self, worker: Worker, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send an order to a worker and return its answer.

        Raises:
            TilthError: it could not be done; UnavailableError when the worker ended.
        """
        ticket = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        worker.tickets[ticket] = future
        if order["do"] == "inline":
            worker.loading[ticket] = order["slot"]
        if not worker.process.alive:
            future.set_result({"gone": True})
        worker.process.send({**order, "ticket": ticket})
        answer = await future
        worker.loading.pop(ticket, None)
        if "gone" in answer:
            raise UnavailableError("a worker ended", why="it died while it was told something", hint="try again")
        if "error" in answer:
            raise raised(answer)
        return answer

    async def tell_all(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send an order to every worker that is up and return their answers; those that end meanwhile are left out.

        Raises:
            TilthError: one could not do it.
        """
        workers = [worker for worker in self.workers.values() if worker.up.is_set()]
        answers = await asyncio.gather(*(self.tell(worker, order) for worker in workers), return_exceptions=True)
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, TilthError) and worker.process.alive:
                raise answer
            if isinstance(answer, BaseException) and not isinstance(answer, TilthError):
                raise answer
        return [answer for answer in answers if isinstance(answer, dict)]

    def send_all(self, message: Mapping[str, Any]) -> None:
        """Send a message that needs no answer to every worker."""
        for worker in self.workers.values():
            if worker.up.is_set():
                worker.process.send(message)

    def watch(self, limit_s: Callable[[int], float], limit_bytes: Callable[[], float]) -> None:
        """End workers that hang in a model longer than `limit_s` of its slot, are silent, or take too much memory."""
        now = time.monotonic()
        if now - self._looked > 1:
            # This process was stopped for a while, and so may have been the workers.
            for worker in self.workers.values():
                worker.heard = now
        self._looked = now
        for worker in self.workers.values():
            if not worker.process.alive or not worker.up.is_set():
                continue
            ran = self._sentinels[worker.index].running()
            if ran is not None and ran[1] > limit_s(ran[0]):
                self._end(worker, f"a call took longer than {limit_s(ran[0]):.3g} s")
            elif time.monotonic() - worker.heard > _SILENT_S and ran is None:
                self._end(worker, f"it gave no sign of life for {_SILENT_S:g} s")
            elif ran is not None and worker.process.resident_bytes() > limit_bytes():
                self._end(worker, "it took too much memory")

    def _end(self, worker: Worker, why: str) -> None:
        self._reasons[worker.index] = why
        worker.process.kill()

    async def close(self, grace_s: float) -> None:
        """Let every worker finish what it has begun, for at most `grace_s` seconds, and end it."""
        self.closing = True
        for worker in self.workers.values():
            worker.process.send({"do": "drain"})
        ends = [worker.process.ended() for worker in self.workers.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*ends), grace_s + 1)
        self.kill()

    def kill(self) -> None:
        """End every worker at once and start none any more."""
        self.closing = True
        for worker in self.workers.values():
            worker.process.kill()
