"""The parent of all: it binds the ports, starts workers and runners, loads versions, and replaces what dies."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tilth.core.address import Address
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, TilthError, UnavailableError
from tilth.serve import sources
from tilth.serve.background import Background
from tilth.serve.fleet import Fleet, Worker
from tilth.serve.frame import error_facts
from tilth.serve.logs import Log
from tilth.serve.plan import Standing, policy_of
from tilth.serve.roster import Certify, Roster
from tilth.serve.runtime import runtime_folder
from tilth.serve.settings import Settings
from tilth.serve.traffic import Policy
from tilth.serve.version import READY, Model, Version

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
        self._stop = asyncio.Event()
        self._ready = False
        self._background = Background(log)
        self._fleet: Fleet
        self._roster: Roster

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            UnavailableError: a port is taken, or no worker starts.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with contextlib.ExitStack() as stack:
            runtime = stack.enter_context(runtime_folder())
            self._scan()
            addresses = await self._open(stack, runtime)
            self._background.begin(self._load_all(), "start")
            watching = loop.create_task(self._watch())
            self._started(addresses)
            await self._stop.wait()
            self._log.write("info", "draining")
            watching.cancel()
            self._roster.closing = True
            await self._fleet.close(self._settings.drain_s)

    async def _open(self, stack: contextlib.ExitStack, runtime: Path) -> dict[str, str]:
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
        config = self._worker_config(runtime, told, manage.fileno() if manage else None)
        self._fleet = Fleet(
            settings.workers,
            self._worker_command,
            config,
            [one.fileno() for one in https],
            runtime,
            self._log,
            self._asked,
            lambda slot, why: self._roster.blamed(slot, why),
            self._revive,
            self._background,
        )
        self._roster = Roster(
            self._fleet,
            runtime,
            settings.isolation,
            self._device,
            self._runner_command,
            self._certify,
            self._log,
            self._background,
            self._publish,
        )
        stack.callback(self._roster.close)
        await self._fleet.start()
        return told

    def _worker_config(self, runtime: Path, addresses: Mapping[str, str], manage_fd: int | None) -> dict[str, Any]:
        settings = self._settings
        return {
            "runtime": str(runtime),
            "workers": settings.workers,
            "limits": asdict(settings.limits),
            "addresses": list(addresses.values()),
            "manage_fd": manage_fd,
            "grpc": addresses.get("grpc", ""),
            "tls_cert": _text(settings.tls_cert),
            "tls_key": _text(settings.tls_key),
            # Links are followed at every look: what mounts secrets changes where they point.
            "tokens": str(settings.tokens.absolute()) if settings.tokens else "",
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
        wanted = [version for model in self._models.values() for version in self._wanted(model)]
        results = await asyncio.gather(
            *(self._roster.bring_up(version, alone=len(wanted) == 1) for version in wanted), return_exceptions=True
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
        before = model.policy
        model.policy = policy_of(settings) if settings else before
        wanted = self._wanted(model)
        # Traffic follows when all of them answer: until then, and when one does not come up, it stays where it is.
        asked, model.policy = model.policy, before if _serves(model, before) else model.policy
        for version in wanted:
            version.standing = Standing()
        alone = sum(one.slot >= 0 for one in self._all()) + sum(one.slot < 0 for one in wanted) == 1
        await self._settle(alone)
        results = await asyncio.gather(
            *(self._roster.bring_up(version, alone=alone) for version in wanted), return_exceptions=True
        )
        if any(isinstance(result, BaseException) for result in results) and _serves(model, before):
            self._wanted(model)
        else:
            model.policy = asked
            self._publish()
        for version in model.versions.values():
            if not version.wanted and version.slot >= 0:
                await self._roster.take_down(version, "not wanted")
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
        await asyncio.gather(*(self._roster.take_down(one, "unloaded") for one in model.versions.values()))
        self._publish()

    def _all(self) -> list[Version]:
        return [version for model in self._models.values() for version in model.versions.values()]

    async def _settle(self, alone: bool) -> None:
        """Move versions out of the workers when others come beside them."""
        for version in self._all():
            if version.inline and not alone and self._settings.isolation == "auto":
                version.stamp = (0, 0)
                version.standing = Standing(version.standing.strikes, apart=True)
                await self._roster.bring_up(version, alone=False)

    # -- workers

    def _publish(self) -> None:
        self._fleet.send_all(self._state())

    def _state(self) -> dict[str, Any]:
        wanted = [model.name for model in self._models.values() if any(one.wanted for one in model.versions.values())]
        return {
            "do": "models",
            "models": {name: model.as_json() for name, model in self._models.items()},
            "wanted": wanted,
            "memory": self._roster.memory(),
            "ready": self._ready,
        }

    async def _revive(self, worker: Worker) -> None:
        """Bring a new worker up to what the others serve."""
        known = [version if version.placed or not version.before else version.before for version in self._all()]
        live = [version for version in known if version.placed]
        results = await asyncio.gather(
            *(self._fleet.tell(worker, self._roster.order(version)) for version in live), return_exceptions=True
        )
        for version, result in zip(live, results, strict=True):
            if isinstance(result, TilthError):
                self._log.write("error", "not revived", model=version.model, version=version.version, why=str(result))
        worker.process.send(self._state())

    def _asked(self, worker: Worker, message: dict[str, Any]) -> None:
        self._background.begin(self._answer(worker, message), "ask")

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
            self._fleet.watch(self._roster.limit_s, self._roster.inline_limit_bytes)
            self._roster.watch()
            if time.monotonic() > due:
                due = time.monotonic() + _MEMORY_S
                self._publish()
            await asyncio.sleep(_WATCH_S)


def _serves(model: Model, policy: Policy) -> bool:
    """Return whether every version that a policy gives traffic to answers."""
    try:
        names = policy.served(list(model.versions))
    except InvalidError:
        return False
    return bool(names) and all(model.versions[name].state == READY for name in names)


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
