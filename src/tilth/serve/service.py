"""The protocol-free core of a worker: which models there are, and one request through one of them."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.bridge.model import Model
from tilth.core.errors import InvalidError, MissingError, TilthError, UnavailableError
from tilth.core.version import VERSION
from tilth.ports.arrays import Value
from tilth.serve.background import Background
from tilth.serve.limits import Limits
from tilth.serve.metrics import NO_UNIT, Meter
from tilth.serve.request import Answer, Request
from tilth.serve.sentinel import Sentinel
from tilth.serve.status import reason
from tilth.serve.traffic import Policy, Splitter
from tilth.serve.unit import Unit, late

#: Asks the supervisor to do something with the repository and returns its answer.
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
#: Told of an answered request, for capture and logs.
Seen = Callable[[Request, Unit, dict[str, Value]], None]


@dataclass
class Served:
    """One model in this worker: its units by version, and why a version that is wanted does not answer."""

    name: str
    policy: Policy = field(default_factory=Policy)
    units: dict[str, Unit] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    splitter: Splitter = field(default_factory=lambda: Splitter(Policy(), []))

    def refresh(self) -> None:
        """Follow a change of units or policy."""
        self.splitter = Splitter(self.policy, list(self.units))


class Service:
    """What a worker answers; shells translate to and from protocols."""

    def __init__(self, limits: Limits, meter: Meter, sentinel: Sentinel, ask: Ask, background: Background) -> None:
        self.limits, self._meter, self._sentinel, self.ask = limits, meter, sentinel, ask
        self.models: dict[str, Served] = {}
        self.ready = False
        self.draining = False
        #: Whether an error may say which models there are: true only where nobody needs a credential.
        self.tells_names = False
        self.seen: Seen | None = None
        self._chance = random.Random().random  # noqa: S311 - shares traffic, and nobody gains by guessing it
        self._background = background

    # -- what there is

    def is_ready(self) -> bool:
        """Return whether every model that is wanted answers and nothing is being drained."""
        return self.ready and not self.draining and all(self.is_model_ready(name) for name in self.models)

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Return whether a model, or one version of it, answers."""
        served = self.models.get(name)
        if served is None or self.draining:
            return False
        return version in served.units if version else bool(served.units) and not served.reasons

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata as the protocol has it."""
        extensions = ["binary_tensor_data", "classification", "model_repository", "statistics", "parameters"]
        extensions += ["model_configuration", "trace", "logging", "schedule_policy"]
        return {"name": "tilth", "version": VERSION, "extensions": extensions}

    def served(self, name: str) -> Served:
        """Return a model.

        Raises:
            MissingError: there is none of this name.
        """
        found = self.models.get(name)
        if found is None:
            known = ", ".join(f"`{one}`" for one in sorted(self.models)[:10]) or "none"
            why = f"served: {known}" if self.tells_names else ""
            raise MissingError(f"there is no model `{name[:200]}`", why=why, hint="GET /v2/repository/index lists all")
        return found

    def unit(self, name: str, version: str = "") -> Unit:
        """Return the unit of a version, or the one that the traffic split picks.

        Raises:
            MissingError: there is no such model or version.
            UnavailableError: it is wanted and does not answer; the error says why.
        """
        served = self.models.get(name)
        if served is None:
            self._meter.failed(NO_UNIT, "missing")
            served = self.served(name)
        wanted = version or served.splitter.only or served.splitter.pick(self._chance())
        unit = served.units.get(wanted)
        if unit is None:
            raise _no_unit(served, version)
        return unit

    # -- one request

    async def infer(self, request: Request, unit: Unit) -> Answer:
        """Run one request on a unit that `unit` returned.

        Raises:
            TilthError: it cannot be answered; the class says whose move it is.
        """
        if unit.model is not None:
            return self.infer_now(request, unit, unit.model)
        meter, slot, began = self._meter, unit.slot, time.perf_counter_ns()
        meter.begin(slot)
        try:
            wanted = self._begun(request, unit)
            outputs, queue_ns, compute_ns, batch = await unit.call(request.inputs, request.until)
        except TilthError as error:
            meter.failed(slot, reason(error), time.perf_counter_ns() - began)
            raise
        except asyncio.CancelledError:
            meter.failed(slot, "cancelled")
            raise
        finally:
            meter.end(slot)
        if batch:
            meter.executed(slot, batch, compute_ns)
        meter.done(slot, _rows(outputs), queue_ns, compute_ns, time.perf_counter_ns() - began)
        return self._answer(request, unit, outputs, wanted)

    def infer_now(self, request: Request, unit: Unit, model: Model) -> Answer:
        """Run one request on a unit whose `model` runs on the event loop, at once.

        Raises:
            TilthError: it cannot be answered; the class says whose move it is.
        """
        meter, slot, sentinel, began = self._meter, unit.slot, self._sentinel, time.perf_counter_ns()
        try:
            wanted = self._begun(request, unit)
            sentinel.enter(slot)
            try:
                outputs = model.run(request.inputs)
            finally:
                sentinel.leave()
        except TilthError as error:
            meter.failed(slot, reason(error), time.perf_counter_ns() - began)
            raise
        meter.done_now(slot, _rows(outputs), time.perf_counter_ns() - began)
        return self._answer(request, unit, outputs, wanted)

    def _answer(self, request: Request, unit: Unit, outputs: dict[str, Value], wanted: tuple[str, ...]) -> Answer:
        if self.seen is not None:
            self.seen(request, unit, outputs)
        if wanted:
            outputs = {name: outputs[name] for name in wanted}
        return Answer(request.model, unit.version, request.id, outputs)

    def _begun(self, request: Request, unit: Unit) -> tuple[str, ...]:
        """Return the outputs that are wanted, none for all, when the request can begin."""
        wanted = _wanted(request, unit) if request.outputs else ()
        if request.until and time.monotonic() >= request.until:
            raise late()
        if not request.version and (shadows := self.models[request.model].splitter.shadows):
            self._shadow(shadows, request)
        return wanted

    def _shadow(self, shadows: list[tuple[str, float]], request: Request) -> None:
        """Show the request to shadow versions, too; nobody waits for what they say."""
        for version, share in shadows:
            unit = self.models[request.model].units.get(version)
            if unit is not None and self._chance() < share:
                self._background.begin(self._shadowed(unit, request), "shadow")

    async def _shadowed(self, unit: Unit, request: Request) -> None:
        began = time.perf_counter_ns()
        try:
            outputs, queue_ns, compute_ns, batch = await unit.call(request.inputs, request.until)
        except TilthError as error:
            self._meter.failed(unit.slot, reason(error))
            return
        self._meter.done(unit.slot, _rows(outputs), queue_ns, compute_ns, time.perf_counter_ns() - began)
        if batch:
            self._meter.executed(unit.slot, batch, compute_ns)


def _wanted(request: Request, unit: Unit) -> tuple[str, ...]:
    known = {spec.name for spec in unit.facts.signature.outputs}
    for name in request.outputs:
        if name not in known:
            raise InvalidError(
                f"there is no output `{name[:200]}`", why="outputs: " + ", ".join(f"`{one}`" for one in sorted(known))
            )
    return request.outputs


def _rows(outputs: Mapping[str, Value]) -> int:
    for value in outputs.values():
        shape = getattr(value, "shape", ())
        return int(shape[0]) if shape else 1
    return 1


def _no_unit(served: Served, version: str) -> TilthError:
    told = version or next(iter(served.reasons), "")
    if told in served.reasons:
        why = served.reasons[told]
        return UnavailableError(f"`{served.name}` version `{told}` does not answer", why=why, hint="see its readiness")
    if not version:
        return UnavailableError(f"no version of `{served.name}` is loaded", hint="load it, or wait until it is ready")
    known = ", ".join(f"`{one}`" for one in served.units) or "none"
    return MissingError(f"`{served.name}` has no version `{version[:80]}`", why=f"loaded: {known}")
