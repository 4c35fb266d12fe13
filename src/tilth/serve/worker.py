"""One of the processes that share the port: it speaks the protocols, runs small models itself and hands on the rest."""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tilth.bridge.measure.tether import tie_to_parent
from tilth.core.address import parse
from tilth.core.device import Device
from tilth.core.errors import TilthError
from tilth.core.host import HostRule
from tilth.ports.engine import Engine
from tilth.serve.access import Access
from tilth.serve.background import Background
from tilth.serve.capture import Capture
from tilth.serve.door import GrpcDoor, HttpDoor
from tilth.serve.frame import error_facts, raised
from tilth.serve.jwt import load_jwt_key
from tilth.serve.limits import Limits
from tilth.serve.loading import Facts, load
from tilth.serve.logs import Log
from tilth.serve.metrics import Meter
from tilth.serve.repository import Repository
from tilth.serve.request import Request
from tilth.serve.rest import Rest
from tilth.serve.rpc import Rpc
from tilth.serve.sentinel import Sentinel
from tilth.serve.service import Served, Service
from tilth.serve.token_watch import TokenWatch
from tilth.serve.traces import tracer
from tilth.serve.traffic import Policy
from tilth.serve.unit import Apart, Inline, Unit

_BEAT_S = 0.5


def serve(engines: Mapping[str, Engine], device: Callable[[], Device], commands: TextIO, replies: TextIO) -> None:
    """Answer the network until the supervisor says otherwise or goes away."""
    tie_to_parent()
    config = json.loads(commands.readline())
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner:
        runner.run(_Worker(config, engines, device, commands, replies).run())


class _Worker:
    def __init__(
        self,
        config: dict[str, Any],
        engines: Mapping[str, Engine],
        device: Callable[[], Device],
        commands: TextIO,
        replies: TextIO,
    ) -> None:
        self._config, self._engines, self._device = config, engines, device
        self._commands, self._replies = commands, replies
        runtime = Path(config["runtime"])
        limits = Limits(**config["limits"])
        self._log = Log(sys.stderr, config["log_level"], access=config["access_log"])
        self._meter = Meter(runtime / f"meter-{config['index']}")
        sentinel = Sentinel(runtime / f"sentinel-{config['index']}")
        sentinel.leave()
        self._background = Background(self._log)
        self.service = Service(limits, self._meter, sentinel, self._ask, self._background)
        self._repository = Repository(self.service, self._log, runtime)
        self._tracer = tracer(config["otlp"] or None)
        self._tickets: dict[int, asyncio.Future[Any]] = {}
        self._may_open, self._ended = asyncio.Event(), asyncio.Event()
        self._retiring: dict[int, Unit] = {}
        self._doors: list[HttpDoor | GrpcDoor] = []

    async def run(self) -> None:
        """Open the doors, follow commands, and close when told to."""
        self._watch_capture()
        reading = asyncio.get_running_loop().create_task(self._follow())
        access = self._access()
        # What was imported stays for good: the collector need not walk it again and again.
        gc.freeze()
        self._tell({"event": "up"})
        beating = asyncio.get_running_loop().create_task(self._beat())
        await self._may_open.wait()
        await self._open(access)
        self._tell({"event": "open"})
        await self._ended.wait()
        for task in (reading, beating):
            task.cancel()
        await asyncio.gather(*(door.close(self._config["drain_s"]) for door in self._doors))
        for served in self.service.models.values():
            for unit in served.units.values():
                unit.close()
        self._tracer.close()
        self._log.close()
        # What engines hold may take long to unwind and has nobody to go to.
        with contextlib.suppress(OSError):
            self._replies.flush()
        os._exit(0)

    def _access(self) -> Access:
        config = self._config
        key, issuer, audience = config["jwt_key"], config["jwt_issuer"] or None, config["jwt_audience"] or None
        jwt = load_jwt_key(Path(key), issuer=issuer, audience=audience) if key else None
        if not config["tokens"]:
            return Access(None, jwt)
        watch = TokenWatch(Path(config["tokens"]), Path(config["runtime"]), config["index"], self._log)
        access = Access(watch.begin(), jwt)
        self._background.begin(watch.follow(access.take), "following tokens")
        return access

    async def _open(self, access: Access) -> None:
        config, limits = self._config, self.service.limits
        tls = (config["tls_cert"], config["tls_key"]) if config["tls_cert"] else None
        addresses = [parse(text) for text in config["addresses"]]
        hosts = HostRule(addresses, config["allow_hosts"], config["allow_origins"])
        self.service.tells_names = access.open
        common = (self.service, self._repository, access)
        own = {"manage", "metrics"} if config["manage_fd"] is not None else set()
        doors: list[tuple[int, frozenset[str]]] = [(config["http_fd"], frozenset({"infer", "manage", "metrics"} - own))]
        if own:
            doors.append((config["manage_fd"], frozenset(own)))
        for fd, scopes in doors:
            rest = Rest(*common, hosts, self._log, self._tracer, scopes)
            self._doors.append(HttpDoor(rest, fd, limits, tls))
        if config["grpc"]:
            rpc = Rpc(*common, self._log, self._tracer, manage=not own)
            self._doors.append(GrpcDoor(rpc, config["grpc"], limits, tls))
        for door in self._doors:
            await door.open()

    def _watch_capture(self) -> None:
        config = self._config
        if not config["capture"]:
            return
        keeping = Capture(
            Path(config["capture"]),
            config["capture_share"],
            config["capture_bytes"],
            say=lambda why: self._log.write("warning", "capture stopped", why=why),
        )

        def seen(request: Request, unit: Unit, outputs: Mapping[str, Any]) -> None:
            if keeping.wants():
                note = {"build": unit.facts.build, "bundle": unit.facts.digest}
                about = (request.model, unit.version, request.id, request.inputs, outputs, note)
                asyncio.get_running_loop().run_in_executor(None, keeping.keep, *about)

        self.service.seen = seen

    # -- the supervisor

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._replies.write(json.dumps(message) + "\n")
            self._replies.flush()

    async def _ask(self, what: str, about: Mapping[str, Any]) -> Any:
        """Ask the supervisor to do something and return its answer.

        Raises:
            TilthError: it could not.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ticket = id(future)
        self._tickets[ticket] = future
        self._tell({"event": "ask", "ticket": ticket, "what": what, "about": dict(about)})
        try:
            answer = await future
        finally:
            self._tickets.pop(ticket, None)
        if "error" in answer:
            raise raised(answer)
        return answer

    async def _follow(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 26)
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, self._commands)
        try:
            while line := await reader.readline():
                order = json.loads(line)
                if order["do"] in ("inline", "attach", "detach"):
                    # Loading and letting go take their time; what comes after it must not wait.
                    work = self._detach(order) if order["do"] == "detach" else self._bring(order)
                    self._background.begin(work, order["do"])
                else:
                    getattr(self, f"_do_{order['do']}")(order)
        finally:
            # The supervisor is gone, or not understood: nobody restarts or stops this process any more.
            self._may_open.set()
            self._ended.set()

    async def _beat(self) -> None:
        while True:
            self._tell({"event": "beat"})
            for door in self._doors:
                if isinstance(door, HttpDoor):
                    door.sweep()
            await asyncio.sleep(_BEAT_S)

    async def _bring(self, order: Mapping[str, Any]) -> None:
        try:
            unit = await self._made(order)
        except TilthError as error:
            self._tell({"event": "done", "ticket": order["ticket"], **error_facts(error)})
            return
        except Exception as error:  # an engine's own, of any class
            told = {"error": "UnavailableError", "what": "the build does not load", "why": str(error)[:600], "hint": ""}
            self._tell({"event": "done", "ticket": order["ticket"], "error": told})
            return
        if order.get("fresh"):
            # What an earlier holder of the slot counted; a worker that replaces one goes on with its counts.
            self._meter.clear(unit.slot)
        served = self.service.models.setdefault(order["model"], Served(order["model"]))
        old = served.units.get(unit.version)
        served.units[unit.version] = unit
        served.reasons.pop(unit.version, None)
        served.refresh()
        if old is not None:
            self._retire(old)
        self._tell({"event": "done", "ticket": order["ticket"], "facts": unit.facts.as_json()})

    async def _made(self, order: Mapping[str, Any]) -> Unit:
        slot, version = order["slot"], order["version"]
        if order["do"] == "inline":
            path = Path(order["path"])
            model, facts = await asyncio.to_thread(load, path, self._device(), self._engines, alone=False)
            return Inline(slot, version, facts, model)
        facts = Facts.of_json(order["facts"])
        return await Apart.connected(order["socket"], slot, version, facts, self.service.limits.queue)

    def _retire(self, unit: Unit) -> None:
        """Close a unit once nothing waits for it any more."""
        if getattr(unit, "waiting", 0):
            self._retiring[unit.slot] = unit
            asyncio.get_running_loop().call_later(0.02, self._retire, unit)
            return
        self._retiring.pop(unit.slot, None)
        unit.close()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    async def _detach(self, order: Mapping[str, Any]) -> None:
        """Let go of the unit of a slot, and say so when all that it has begun is answered or has had its time."""
        served = self.service.models.get(order["model"])
        unit = served.units.get(order["version"]) if served else None
        if served is not None and unit is not None and unit.slot == order["slot"]:
            del served.units[order["version"]]
            served.refresh()
            self._retire(unit)
        until = time.monotonic() + self._config["drain_s"]
        while order["slot"] in self._retiring and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self._tell({"event": "done", "ticket": order["ticket"]})

    def _do_open(self, order: Mapping[str, Any]) -> None:
        self._may_open.set()

    def _do_models(self, order: Mapping[str, Any]) -> None:
        for name, told in order["models"].items():
            served = self.service.models.setdefault(name, Served(name))
            policy = told["policy"]
            versions = policy["versions"]
            kept = versions if isinstance(versions, str) else tuple(versions)
            served.policy = Policy(kept, policy["split"], policy["shadow"])
            wanted = {v: one for v, one in told["versions"].items() if one["wanted"]}
            served.reasons = {
                v: one["reason"] or "it is loading" for v, one in wanted.items() if one["state"] != "READY"
            }
            served.refresh()
        for name in set(self.service.models) - set(order["wanted"]):
            if not self.service.models[name].units:
                del self.service.models[name]
        self._repository.follow(order["models"], order["memory"])
        self.service.ready = order["ready"]

    def _do_answer(self, order: Mapping[str, Any]) -> None:
        future = self._tickets.get(order["ticket"])
        if future is not None and not future.done():
            future.set_result(order)

    def _do_logging(self, order: Mapping[str, Any]) -> None:
        self._log.configure(order.get("level", self._log.level), access=order.get("access"))
        self._tell({"event": "done", "ticket": order["ticket"]})

    def _do_drain(self, order: Mapping[str, Any]) -> None:
        self.service.draining = True
        self._may_open.set()
        self._ended.set()
