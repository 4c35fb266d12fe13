"""What an engine makes of each of ONNX's node tests, found out in a child process that it may crash."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from tilth.bridge.agreement import Tolerance, compare
from tilth.bridge.interface import read_signature
from tilth.bridge.measure.worker import Worker, WorkerFailed, start
from tilth.bridge.model_checks import check_model
from tilth.bridge.skeleton import join, split
from tilth.bridge.value_file import read_values, write_values
from tilth.core import errors
from tilth.core.build import Build, Precision
from tilth.core.device import Device
from tilth.core.errors import TilthError
from tilth.core.graph import Graph
from tilth.core.record import to_json
from tilth.ports.arrays import Values
from tilth.ports.engine import Engine
from tilth.testing.node_tests import NodeCase, difference

_MEMORY_BYTES = 4 << 30
_CALL_S = 60.0
#: float16 outputs cannot be closer than one step of their own.
_HALF_REL = 2.0**-10


class Kind(StrEnum):
    """How one case ended.

    `AGREES` is within the case's own tolerance. `CLOSE` is not, and is within a relative error of 1e-4 as builds
    are judged. `NO_EDGE` is a model that no bundle holds, for an input or output of a type that arrays do not have.
    `BROKEN` is an engine that breaks its contract: an exception of another class, or no reason.
    """

    AGREES = "agrees"
    CLOSE = "close"
    DISAGREES = "disagrees"
    NO_EDGE = "no bundle"
    REFUSED = "refused"
    NOT_LOADED = "not loaded"
    NOT_RUN = "not run"
    CRASHED = "crashed"
    BROKEN = "broken"


@dataclass(frozen=True)
class Outcome:
    """How one case ended, and why; the reason is empty only where the engine agrees."""

    case: str
    kind: Kind
    reason: str = ""


def survey(
    engine: Engine, command: Sequence[str], device: Device, cases: Iterable[NodeCase], folder: Path
) -> Iterator[Outcome]:
    """Yield one outcome per case.

    `command` starts a measuring child that finds `engine`; it is started again after a crash. Models, values and the
    child's log are written into `folder`.
    """
    bench = _Bench(engine, command, device, folder)
    try:
        for case in cases:
            yield bench.outcome(case)
    finally:
        bench.close()


class _Bench:
    def __init__(self, engine: Engine, command: Sequence[str], device: Device, folder: Path) -> None:
        self._engine, self._command, self._device, self._folder = engine, command, device, folder
        self._worker: Worker | None = None
        # A child reads a file of inputs once: every case needs a name of its own.
        self._inputs = folder / "0.npz"

    def outcome(self, case: NodeCase) -> Outcome:
        try:
            check_model(case.model, None)
            read_signature(case.model, batched=False)
            graph = self._write(case)
        except TilthError as error:
            return Outcome(case.name, Kind.NO_EDGE, error.why)
        refusals = self._engine.refusals(graph, self._device)
        if refusals:
            reasons = [refusal.reason for refusal in refusals]
            return Outcome(case.name, Kind.REFUSED if all(reasons) else Kind.BROKEN, "; ".join(reasons))
        return self._ran(case, graph)

    def _write(self, case: NodeCase) -> Graph:
        parts = split(case.model, None)
        blobs = {name: data for name, data in parts.blobs.items() if isinstance(data, bytes)}
        model = join(parts.skeleton, blobs.__getitem__)
        (self._folder / "model.onnx").write_bytes(model.SerializeToString())
        self._inputs.unlink(missing_ok=True)
        self._inputs = self._folder / f"{int(self._inputs.stem) + 1}.npz"
        write_values(self._inputs, case.inputs)
        return parts.graph

    def _ran(self, case: NodeCase, graph: Graph) -> Outcome:
        build = Build(graph.digest, self._device.target, self._engine.name, Precision.FP32)
        stage = Kind.NOT_LOADED
        try:
            worker = self._worker = self._worker or start(self._command, self._folder / "log", _MEMORY_BYTES)
            model = str(self._folder / "model.onnx")
            worker.call("load", _CALL_S, model=model, build=to_json(build), device=to_json(self._device))
            stage = Kind.NOT_RUN
            outputs = self._folder / "outputs.npz"
            worker.call("run", _CALL_S, inputs=str(self._inputs), outputs=str(outputs))
        except WorkerFailed as failure:
            return self._failed(case, stage, failure)
        return judged(case, read_values(outputs))

    def _failed(self, case: NodeCase, stage: Kind, failure: WorkerFailed) -> Outcome:
        if failure.error is None:
            self.close()
            return Outcome(case.name, Kind.CRASHED, f"{failure.reason}; {failure.last_words}"[:600])
        known = issubclass(getattr(errors, failure.error["error"], Exception), TilthError)
        sound = known and failure.error["why"]
        return Outcome(case.name, stage if sound else Kind.BROKEN, failure.error["why"] or failure.reason)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None


def judged(case: NodeCase, found: Values) -> Outcome:
    """Return whether outputs agree with what the case expects, are close to it, or disagree, and by how much."""
    words = difference(found, case)
    if not words:
        return Outcome(case.name, Kind.AGREES)
    half = any(isinstance(value, np.ndarray) and value.dtype == np.float16 for value in case.outputs.values())
    tolerance = replace(Tolerance(), rel=_HALF_REL) if half else Tolerance()
    with np.errstate(all="ignore"):
        objections = tolerance.objections(compare([(found, case.outputs)]), Precision.FP32)
    return Outcome(case.name, Kind.DISAGREES if objections else Kind.CLOSE, "; ".join([words, *objections]))
