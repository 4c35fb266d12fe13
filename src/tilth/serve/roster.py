"""The versions that are loaded: each brought up, started once more when it dies, and taken down."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tilth.bridge.search import Progress
from tilth.core.device import Device
from tilth.core.errors import CancelledError, MissingError, RefusedError, TilthError, UnavailableError
from tilth.serve.background import Background
from tilth.serve.fleet import Fleet
from tilth.serve.frame import raised
from tilth.serve.loading import Facts, facts_of
from tilth.serve.logs import Log
from tilth.serve.metrics import MOST_UNITS
from tilth.serve.plan import MOST_STRIKES, Isolation, runs_inline, struck
from tilth.serve.process import Process, how_it_ended
from tilth.serve.sentinel import Sentinel
from tilth.serve.version import LOADING, READY, UNAVAILABLE, Version, stamp_of

#: Certifies the bundle at the first path for this device, writes it at the second, and tells how far it is.
Certify = Callable[[Path, Path, Progress], None]
_LOAD_S = 120.0


class Roster:
    """Places versions in the workers of `fleet` or in runners of their own.

    `device` finds this machine's chip; with `certify` None a bundle without a certificate for it is refused. `changed`
    is told whenever a version's state is another.
    """

    def __init__(
        self,
        fleet: Fleet,
        runtime: Path,
        isolation: Isolation,
        device: Callable[[], Device],
        runner: Sequence[str],
        certify: Certify | None,
        log: Log,
        background: Background,
        changed: Callable[[], None],
    ) -> None:
        self._fleet, self._runtime, self._isolation, self._device = fleet, runtime, isolation, device
        self._runner_command, self._certify, self._log = runner, certify, log
        self._background, self._changed = background, changed
        self._slots = list(range(MOST_UNITS))[::-1]
        self._by_slot: dict[int, Version] = {}
        self._sentinels: dict[int, Sentinel] = {}
        self._reasons: dict[int, str] = {}
        self._count = 0
        #: Once set, what dies is not started again.
        self.closing = False

    async def bring_up(self, version: Version, *, alone: bool) -> None:
        """Load a version, or load it anew when its bundle changed; `alone` says that nothing is served beside it.

        Raises:
            TilthError: it cannot be loaded; what was served before goes on.
        """
        async with version.guard:
            try:
                stamp = stamp_of(version.path)
            except OSError as error:
                raise MissingError(f"there is no bundle at `{version.path}`", why=str(error)) from None
            if version.state == READY and version.stamp == stamp:
                return
            if stamp != version.stamp:
                version.certified = None
            old = self._retired(version)
            version.state, version.reason = (version.state, "") if old else (LOADING, "it is loading")
            try:
                await self._loaded(version, alone)
                version.stamp = stamp
            except TilthError as error:
                await self._give_up(version, old, error)
                raise
            version.state, version.reason, version.before = READY, "", None
            self._changed()
            if old is not None:
                await self._end(old)

    def _retired(self, version: Version) -> "Version | None":
        """Return what serves this version until now, so that it can go on until another takes its place."""
        if version.slot < 0:
            return None
        old = Version(version.model, version.version, version.path, version.slot, inline=version.inline)
        old.runner, old.socket, old.facts, old.placed = version.runner, version.socket, version.facts, version.placed
        self._by_slot[old.slot] = version.before = old
        version.slot, version.runner, version.inline, version.placed = -1, None, False, False
        return old

    async def _give_up(self, version: Version, old: "Version | None", error: TilthError) -> None:
        placed, slot, version.before = version.placed, version.slot, None
        if placed and old is None:
            await self._detached(version, slot)
        self._free(version)
        version.state, version.reason = UNAVAILABLE, str(error)
        if old is not None:
            version.slot, version.runner, version.inline = old.slot, old.runner, old.inline
            version.socket, version.facts, version.state = old.socket, old.facts, READY
            version.reason, version.placed = "", old.placed
            self._by_slot[version.slot] = version
            if version.runner is not None and not version.runner.alive:
                # It died meanwhile, when nobody was there to start it once more.
                self._strike(version, how_it_ended(await version.runner.ended()))
                self._background.begin(self._again(version), "restart")
            elif placed:
                # Some workers have taken the new one.
                with contextlib.suppress(TilthError):
                    await self._fleet.tell_all(self.order(version))
        self._changed()

    async def _loaded(self, version: Version, alone: bool) -> None:
        # Of both tries: the first one may take a slot and fail, and what an earlier holder counted is still in it.
        fresh = version.slot < 0
        try:
            await self._load_once(version, alone, fresh)
        except RefusedError as error:
            if self._certify is None or version.certified is not None:
                raise
            self._log.write("info", "certifying", model=version.model, version=version.version, why=error.what)
            out = self._runtime / f"certified-{version.model}-{version.version}-{time.monotonic_ns()}.tilth"
            await asyncio.to_thread(self._certify, version.path, out, self._watched(version))
            version.certified = out
            await self._load_once(version, alone, fresh)

    def _watched(self, version: Version) -> Progress:
        """Return what logs each stage of a certification, and ends it when the server is to end."""
        seen: set[str] = set()

        def progress(stage: str, done: int, total: int, detail: str = "") -> None:
            if self.closing:
                raise CancelledError("the certification was stopped", why="the server ends")
            if stage not in seen:
                seen.add(stage)
                self._log.write("info", "certifying", model=version.model, version=version.version, stage=stage)

        return progress

    async def _load_once(self, version: Version, alone: bool, fresh: bool) -> None:
        facts = await asyncio.to_thread(facts_of, version.source, self._device())
        self._take_slot(version)
        standing, isolation = version.standing, self._isolation
        version.inline = runs_inline(small=facts.small, alone=alone, standing=standing, isolation=isolation)
        version.facts = facts
        if not version.inline:
            await self._start_runner(version)
        version.placed = True
        try:
            answers = await asyncio.wait_for(self._fleet.tell_all({**self.order(version), "fresh": fresh}), _LOAD_S)
        except TimeoutError:
            raise UnavailableError("the model does not load", why=f"it took longer than {_LOAD_S:g} s") from None
        if not version.placed:
            raise UnavailableError("the model does not load", why="it ended the worker that loaded it")
        if version.inline and answers:
            version.facts = Facts.of_json(answers[0]["facts"])

    def order(self, version: Version) -> dict[str, Any]:
        """Return what tells a worker to serve a version."""
        about = {"slot": version.slot, "model": version.model, "version": version.version}
        if version.inline:
            return {"do": "inline", "path": str(version.source), **about}
        assert version.facts is not None  # noqa: S101 - a runner has told them
        return {"do": "attach", "socket": version.socket, "facts": version.facts.as_json(), **about}

    async def _start_runner(self, version: Version) -> None:
        self._count += 1
        version.socket = str(self._runtime / f"runner-{self._count}.sock")
        sentinel = self._runtime / f"runner-{self._count}.now"
        self._sentinels[version.slot] = Sentinel(sentinel)
        config = {
            "path": str(version.source),
            "socket": version.socket,
            "sentinel": str(sentinel),
            "slot": version.slot,
        }
        log = self._runtime / f"runner-{self._count}.log"
        try:
            runner = await Process.start(self._runner_command, config, log)
        except OSError as error:
            raise UnavailableError("no process can be started for the model", why=str(error)) from None
        version.runner = runner
        try:
            answer = await asyncio.wait_for(runner.answer(), _LOAD_S)
        except TimeoutError:
            runner.kill()
            raise UnavailableError("the model does not load", why=f"it took longer than {_LOAD_S:g} s") from None
        if "error" in answer:
            raise raised(answer)
        if "ok" not in answer:
            code = await runner.ended()
            words = runner.last_words().splitlines()[-1:] or [""]
            raise UnavailableError(
                "the model does not load", why=f"{how_it_ended(code)}; {words[0][:300]}".rstrip("; ")
            )
        version.facts = Facts.of_json(answer["ok"])
        self._background.begin(self._attend(version, runner), "runner")

    async def _attend(self, version: Version, runner: Process) -> None:
        """Wait for a runner's end, and start another when nobody wanted that."""
        code = await runner.ended()
        if version.runner is not runner or self.closing:
            return
        why = self._reasons.pop(version.slot, "") or how_it_ended(code)
        self._strike(version, f"{why}; {' '.join(runner.last_words().splitlines()[-1:])[:300]}".rstrip("; "))
        await self._again(version)

    def _strike(self, version: Version, why: str) -> None:
        version.standing = struck(version.standing)
        version.state, version.reason, version.placed = LOADING, why, False
        if version.standing.quarantined:
            version.state = UNAVAILABLE
            version.reason = (
                f"quarantined: it ended its process {MOST_STRIKES} times, last: {why}; load it again to lift that"
            )
        about = {"model": version.model, "version": version.version, "strikes": version.standing.strikes}
        self._log.write("error", "model struck", **about, why=why)
        self._changed()

    async def _again(self, version: Version) -> None:
        """Start a version that died once more, until it loads or is quarantined."""
        version.runner, version.inline = None, False
        async with version.guard:
            slot = version.slot
            while version.may_start and not self.closing:
                try:
                    await self._load_once(version, alone=False, fresh=version.slot < 0)
                    version.state, version.reason = READY, ""
                except UnavailableError as error:
                    self._strike(version, str(error))
                except TilthError as error:
                    version.state, version.reason = UNAVAILABLE, str(error)
                    break
            if version.state != READY and slot >= 0:
                await self._detached(version, slot)
                self._free(version)
        self._changed()

    async def take_down(self, version: Version, why: str) -> None:
        """Unload a version, when the requests that it has begun are answered."""
        async with version.guard:
            if version.slot < 0:
                return
            old = self._retired(version)
            version.state, version.reason, version.stamp, version.before = UNAVAILABLE, why, (0, 0), None
            if old is not None:
                await self._end(old)

    async def _detached(self, version: Version, slot: int) -> None:
        about = {"model": version.model, "version": version.version, "slot": slot}
        with contextlib.suppress(UnavailableError):
            await self._fleet.tell_all({"do": "detach", **about})

    async def _end(self, old: Version) -> None:
        """End what served a version before, when the requests that it has begun are answered."""
        await self._detached(old, old.slot)
        runner, old.runner = old.runner, None
        if runner is not None:
            runner.kill()
            await runner.ended()
            Path(old.socket).unlink(missing_ok=True)
        self._free(old)

    def _take_slot(self, version: Version) -> None:
        if version.slot < 0:
            if not self._slots:
                raise UnavailableError("too many versions are loaded", why=f"at most {MOST_UNITS}", hint="unload some")
            version.slot = self._slots.pop()
        self._by_slot[version.slot] = version

    def _free(self, version: Version) -> None:
        if version.slot >= 0:
            self._by_slot.pop(version.slot, None)
            sentinel = self._sentinels.pop(version.slot, None)
            if sentinel is not None:
                sentinel.close()
            self._slots.append(version.slot)
        if version.runner is not None:
            version.runner.kill()
        version.slot, version.runner, version.placed = -1, None, False

    # -- watching

    def watch(self) -> None:
        """End runners that hang in a call or take too much memory."""
        for slot, sentinel in list(self._sentinels.items()):
            self._watch_runner(self._by_slot.get(slot), sentinel)

    def _watch_runner(self, version: Version | None, sentinel: Sentinel) -> None:
        if version is None or version.runner is None or version.facts is None or not version.runner.alive:
            return
        ran = sentinel.running()
        if ran is not None and ran[1] > version.facts.call_limit_s:
            self._reasons[version.slot] = f"a call took longer than {version.facts.call_limit_s:.3g} s"
            version.runner.kill()
        elif version.runner.resident_bytes() > version.facts.memory_limit_bytes:
            limit = version.facts.memory_limit_bytes >> 20
            self._reasons[version.slot] = f"it took more than {limit} MiB of memory"
            version.runner.kill()

    def limit_s(self, slot: int) -> float:
        """Return after how many seconds a call of the version in a slot is taken to hang."""
        version = self._by_slot.get(slot)
        return version.facts.call_limit_s if version and version.facts else 60.0

    def inline_limit_bytes(self) -> int:
        """Return what a worker may take with the versions that run in it."""
        limits = [one.facts.memory_limit_bytes for one in self._by_slot.values() if one.inline and one.facts]
        return sum(limits) + (1 << 30)

    def memory(self) -> dict[int, int]:
        """Return the resident bytes of every runner, by slot."""
        return {
            slot: version.runner.resident_bytes()
            for slot, version in self._by_slot.items()
            if version.runner is not None
        }

    def blamed(self, slot: int, why: str) -> None:
        """Take note that a version ended a worker; from now on it has a process of its own."""
        version = self._by_slot.get(slot)
        if version is None or not version.inline:
            return
        version.inline = False
        self._strike(version, why)
        self._background.begin(self._again(version), "move")

    def close(self) -> None:
        """End every runner; none is started any more."""
        self.closing = True
        for version in self._by_slot.values():
            if version.runner is not None:
                version.runner.kill()
