"""The parent of all: it binds the ports, starts workers and runners, loads versions, and replaces what dies."""

import asyncio
import contextlib
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tilth.core.device import Device
from tilth.core.errors import MissingError, RefusedError, TilthError, UnavailableError
from tilth.serve import sources
from tilth.serve.address import Address
from tilth.serve.fleet import Fleet, Worker
from tilth.serve.frame import error_facts, raised
from tilth.serve.loading import Facts, facts_of
from tilth.serve.logs import Log
from tilth.serve.metrics import MOST_UNITS
from tilth.serve.plan import MOST_STRIKES, Standing, policy_of, runs_inline, struck
from tilth.serve.process import Process, how_it_ended
from tilth.serve.sentinel import Sentinel
from tilth.serve.settings import Settings
from tilth.serve.traffic import Policy
from tilth.serve.version import LOADING, READY, UNAVAILABLE, Model, Version, stamp_of

#: Certifies the bundle at the first path for this device and writes it at the second.
Certify = Callable[[Path, Path], None]
_LOAD_S = 120.0
_WATCH_S = 0.1
_MEMORY_S = 2.0


class Supervisor:
    """Runs a server until it is told to stop.

    `device` finds this machine's chip; with `certify` None a bundle without a certificate for it is refused.
    """

    def __init__(
        self,
        settings: Settings,
        device: Callable[[], Device],
        worker: Sequence[str],
        runner: Sequence[str],
        certify: Certify | None,
        log: Log,
        started: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._settings, self._device, self._certify, self._log = settings, device, certify, log
        self._worker_command, self._runner_command, self._started = worker, runner, started
        self._models: dict[str, Model] = {}
        self._slots = list(range(MOST_UNITS))[::-1]
        self._by_slot: dict[int, Version] = {}
        self._sentinels: dict[int, Sentinel] = {}
        self._reasons: dict[int, str] = {}
        self._stop = asyncio.Event()
        self._ready = False
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fleet: Fleet

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            UnavailableError: a port is taken, or no worker starts.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._runtime = Path(tempfile.mkdtemp(prefix="tilth-serve-"))
        try:
            with contextlib.ExitStack() as stack:
                addresses = await self._open(stack)
                self._begin(self._load_all(), "start")
                watching = loop.create_task(self._watch())
                self._started(addresses)
                await self._stop.wait()
                self._log.write("info", "draining")
                watching.cancel()
                await self._fleet.close(self._settings.drain_s)
        finally:
            self._stop.set()
            for version in self._by_slot.values():
                if version.runner is not None:
                    version.runner.kill()
            shutil.rmtree(self._runtime, ignore_errors=True)

    async def _open(self, stack: contextlib.ExitStack) -> dict[str, str]:
        """Bind the ports and start the workers; return the addresses by name."""
        settings = self._settings
        # One listening socket a worker, of one port: the kernel deals connections out evenly. They stay open here, so
        # that those who wait when a worker dies are taken by the one that replaces it.
        http = stack.enter_context(_opened(settings.http, listen=True))
        more = replace(settings.http, port=http.getsockname()[1])
        https = [http, *(stack.enter_context(_bound(more, listen=True)) for _ in range(settings.workers - 1))]
        manage = stack.enter_context(_opened(settings.manage, listen=True)) if settings.manage else None
        # Bound and never listened on: it holds the port, that workers share by SO_REUSEPORT.
        grpc = stack.enter_context(_opened(settings.grpc, listen=False)) if settings.grpc else None
        told = {"http": _name(http)}
        told |= {"grpc": _name(grpc)} if grpc else {}
        told |= {"manage": _name(manage)} if manage else {}
        config = self._worker_config(told, manage.fileno() if manage else None)
        self._fleet = Fleet(
            settings.workers,
            self._worker_command,
            config,
            [one.fileno() for one in https],
            self._runtime,
            self._log,
            self._asked,
            self._blamed,
            self._revive,
        )
        await self._fleet.start()
        return told

    def _worker_config(self, addresses: Mapping[str, str], manage_fd: int | None) -> dict[str, Any]:
        settings = self._settings
        return {
            "runtime": str(self._runtime),
            "workers": settings.workers,
            "limits": asdict(settings.limits),
            "addresses": list(addresses.values()),
            "manage_fd": manage_fd,
            "grpc": addresses.get("grpc", ""),
            "tls_cert": _text(settings.tls_cert),
            "tls_key": _text(settings.tls_key),
            "tokens": _text(settings.tokens),
            "jwt_key": _text(settings.jwt_key),
            "jwt_issuer": settings.jwt_issuer,
            "jwt_audience": settings.jwt_audience,
            "allow_hosts": list(settings.allow_hosts),
            "allow_origins": list(settings.allow_origins),
            "access_log": settings.access_log,
            "log_level": settings.log_level,
            "otlp": settings.otlp,
            "capture": _text(settings.capture),
            "capture_share": settings.capture_share,
            "capture_bytes": settings.capture_bytes,
            "drain_s": settings.drain_s,
        }

    # -- models

    async def _load_all(self) -> None:
        self._scan()
        wanted = [version for model in self._models.values() for version in self._wanted(model)]
        self._publish()
        results = await asyncio.gather(
            *(self._bring_up(version, alone=len(wanted) == 1) for version in wanted), return_exceptions=True
        )
        for version, result in zip(wanted, results, strict=True):
            if isinstance(result, TilthError):
                self._log.write("error", "not loaded", model=version.model, version=version.version, why=str(result))
            elif isinstance(result, BaseException):
                raise result
        self._ready = True
        self._publish()

    def _scan(self) -> None:
        """Take over the models on the command line and in the folder; what is loaded stays."""
        settings = self._settings
        folder = sources.in_folder(settings.folder) if settings.folder else {}
        for name, versions in sources.merged(folder, settings.models).items():
            policy = settings.policies.get(name, Policy())
            model = self._models.setdefault(name, Model(name, policy))
            for version, path in versions.items():
                known = model.versions.setdefault(version, Version(name, version, path))
                known.path = path

    def _wanted(self, model: Model) -> list[Version]:
        names = model.policy.served(list(model.versions))
        for name, version in model.versions.items():
            version.wanted = name in names
        return [model.versions[name] for name in names]

    async def load(self, name: str, settings: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Load a model, or what has changed of it; what was served before goes on until the new one answers.

        Raises:
            MissingError: there is no such model.
            TilthError: a version cannot be loaded.
        """
        self._scan()
        sources.checked_name(name)
        if name not in self._models and not files:
            known = ", ".join(sorted(self._models)[:10]) or "none"
            raise MissingError(
                f"there is no model `{name}`", why=f"known: {known}", hint="send the bundle with the call"
            )
        model = self._models.setdefault(name, Model(name, Policy()))
        for number, path in files.items():
            model.versions.setdefault(number, Version(name, number, Path(path))).path = Path(path)
        if settings:
            model.policy = policy_of(settings)
        wanted = self._wanted(model)
        for version in wanted:
            version.standing = Standing()
        alone = sum(one.slot >= 0 for one in self._all()) + sum(one.slot < 0 for one in wanted) == 1
        await self._settle(alone)
        results = await asyncio.gather(
            *(self._bring_up(version, alone=alone) for version in wanted), return_exceptions=True
        )
        for version in model.versions.values():
            if not version.wanted and version.slot >= 0:
                await self._take_down(version, "not wanted")
        self._publish()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def unload(self, name: str) -> None:
        """Unload every version of a model.

        Raises:
            MissingError: there is no such model.
        """
        model = self._models.get(name)
        if model is None:
            raise MissingError(f"there is no model `{name[:200]}`", hint="POST /v2/repository/index lists all")
        for version in model.versions.values():
            version.wanted = False
        self._publish()
        await asyncio.gather(*(self._take_down(one, "unloaded") for one in model.versions.values()))
        self._publish()

    def _all(self) -> list[Version]:
        return [version for model in self._models.values() for version in model.versions.values()]

    async def _settle(self, alone: bool) -> None:
        """Move versions out of the workers when others come beside them."""
        for version in self._all():
            if version.inline and not alone and self._settings.isolation == "auto":
                version.stamp = (0, 0)
                version.standing = Standing(version.standing.strikes, apart=True)
                await self._bring_up(version, alone=False)

    # -- one version

    async def _bring_up(self, version: Version, *, alone: bool) -> None:
        """Load a version, or load it anew when its bundle changed."""
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
            self._publish()
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
                self._begin(self._again(version), "restart")
            elif placed:
                # Some workers have taken the new one.
                with contextlib.suppress(TilthError):
                    await self._fleet.tell_all(self._order(version))
        self._publish()

    async def _loaded(self, version: Version, alone: bool) -> None:
        try:
            await self._load_once(version, alone)
        except RefusedError as error:
            if self._certify is None or version.certified is not None:
                raise
            self._log.write("info", "certifying", model=version.model, version=version.version, why=error.what)
            out = self._runtime / f"certified-{version.model}-{version.version}-{time.monotonic_ns()}.tilth"
            await asyncio.to_thread(self._certify, version.path, out)
            version.certified = out
            await self._load_once(version, alone)

    async def _load_once(self, version: Version, alone: bool) -> None:
        facts = await asyncio.to_thread(facts_of, version.source, self._device())
        fresh = version.slot < 0
        self._take_slot(version)
        standing, isolation = version.standing, self._settings.isolation
        version.inline = runs_inline(small=facts.small, alone=alone, standing=standing, isolation=isolation)
        version.facts = facts
        if not version.inline:
            await self._start_runner(version)
        version.placed = True
        try:
            answers = await asyncio.wait_for(self._fleet.tell_all({**self._order(version), "fresh": fresh}), _LOAD_S)
        except TimeoutError:
            raise UnavailableError("the model does not load", why=f"it took longer than {_LOAD_S:g} s") from None
        if not version.placed:
            raise UnavailableError("the model does not load", why="it ended the worker that loaded it")
        if version.inline and answers:
            version.facts = Facts.of_json(answers[0]["facts"])

    def _order(self, version: Version) -> dict[str, Any]:
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
        self._begin(self._attend(version, runner), "runner")

    async def _attend(self, version: Version, runner: Process) -> None:
        """Wait for a runner's end, and start another when nobody wanted that."""
        code = await runner.ended()
        if version.runner is not runner or self._stop.is_set():
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
        self._publish()

    async def _again(self, version: Version) -> None:
        """Start a version that died once more, unless it is quarantined."""
        version.runner, version.inline = None, False
        async with version.guard:
            slot = version.slot
            if not version.standing.quarantined and version.wanted:
                try:
                    await self._load_once(version, alone=False)
                    version.state, version.reason = READY, ""
                except TilthError as error:
                    version.state, version.reason = UNAVAILABLE, str(error)
            if version.state != READY and slot >= 0:
                await self._detached(version, slot)
                self._free(version)
        self._publish()

    async def _take_down(self, version: Version, why: str) -> None:
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

    # -- workers

    def _publish(self) -> None:
        self._fleet.send_all(self._state())

    def _state(self) -> dict[str, Any]:
        wanted = [model.name for model in self._models.values() if any(one.wanted for one in model.versions.values())]
        return {
            "do": "models",
            "models": {name: model.as_json() for name, model in self._models.items()},
            "wanted": wanted,
            "memory": {
                slot: version.runner.resident_bytes()
                for slot, version in self._by_slot.items()
                if version.runner is not None
            },
            "ready": self._ready,
        }

    async def _revive(self, worker: Worker) -> None:
        """Bring a new worker up to what the others serve."""
        known = [version if version.placed or not version.before else version.before for version in self._all()]
        live = [version for version in known if version.placed]
        results = await asyncio.gather(
            *(self._fleet.tell(worker, self._order(version)) for version in live), return_exceptions=True
        )
        for version, result in zip(live, results, strict=True):
            if isinstance(result, TilthError):
                self._log.write("error", "not revived", model=version.model, version=version.version, why=str(result))
        worker.process.send(self._state())

    def _blamed(self, slot: int, why: str) -> None:
        """Take note that a version ended a worker; from now on it has a process of its own."""
        version = self._by_slot.get(slot)
        if version is None or not version.inline:
            return
        version.inline = False
        self._strike(version, why)
        self._begin(self._again(version), "move")

    def _asked(self, worker: Worker, message: dict[str, Any]) -> None:
        self._begin(self._answer(worker, message), "ask")

    async def _answer(self, worker: Worker, message: dict[str, Any]) -> None:
        about, ticket = message["about"], message["ticket"]
        try:
            match message["what"]:
                case "load":
                    await self.load(about["model"], about["settings"], about["files"])
                case "unload":
                    await self.unload(about["model"])
                case "logging":
                    await self._fleet.tell_all({"do": "logging", **about})
            answer: dict[str, Any] = {}
        except TilthError as error:
            answer = error_facts(error)
        except Exception as error:  # a fault of ours: who asked must not wait for ever
            self._log.write("error", "fault", during=message["what"], error=f"{type(error).__name__}: {error}"[:2000])
            answer = error_facts(UnavailableError("the server failed", hint="its log says why"))
        worker.process.send({"do": "answer", "ticket": ticket, **answer})

    # -- watching

    async def _watch(self) -> None:
        due = 0.0
        while True:
            self._fleet.watch(self._limit_s, lambda: float(self._inline_limit()))
            for slot, sentinel in list(self._sentinels.items()):
                self._watch_runner(self._by_slot.get(slot), sentinel)
            if time.monotonic() > due:
                due = time.monotonic() + _MEMORY_S
                self._publish()
            await asyncio.sleep(_WATCH_S)

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

    def _limit_s(self, slot: int) -> float:
        version = self._by_slot.get(slot)
        return version.facts.call_limit_s if version and version.facts else 60.0

    def _inline_limit(self) -> int:
        limits = [one.facts.memory_limit_bytes for one in self._by_slot.values() if one.inline and one.facts]
        return sum(limits) + (1 << 30)

    def _begin(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Do something in the background; a fault in it is logged and stops nothing else."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._log.write("error", "fault", during=what, error=f"{type(error).__name__}: {error}"[:2000])

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _opened(address: Address, *, listen: bool) -> socket.socket:
    """Return a socket bound to an address that nobody else has; as `_bound`."""
    # Sharing a port is for our own workers: with it alone, a second server would take half of this one's connections.
    _bound(address, listen=False, shared=False).close()
    return _bound(address, listen=listen)


def _bound(address: Address, *, listen: bool, shared: bool = True) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        UnavailableError: it is taken, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        made.bind((address.host, address.port))
        if listen:
            made.listen(1024)
            made.set_inheritable(True)
    except OSError as error:
        made.close()
        raise UnavailableError(
            f"`{address}` cannot be listened on",
            why=error.strerror or str(error),
            hint="choose another port, or 0 for any",
        ) from None
    return made


def _name(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return str(Address(host, port))


def _text(path: Path | None) -> str:
    return "" if path is None else str(path.resolve())
