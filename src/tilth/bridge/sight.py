"""The first look at a contender: does it load, does it agree, what does it take."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tilth.bridge.agreement import compare, objections
from tilth.bridge.batch import in_pieces, joined, resized_outputs, row_of, size_bytes, tells_rows_apart
from tilth.bridge.bundle_read import Bundle
from tilth.bridge.measure.arena import Arena, Contender
from tilth.bridge.measure.worker import Worker, WorkerFailed
from tilth.bridge.request import Evaluation, Request
from tilth.bridge.task import metric
from tilth.bridge.value_file import read_values, write_values
from tilth.core.build import Precision
from tilth.core.certificate import Agreement, Placement, Task
from tilth.core.errors import InvalidError, UnavailableError
from tilth.core.record import from_json
from tilth.core.signature import Signature
from tilth.ports.arrays import Value, Values

#: Rows that go through a build at a time, and the weights and the size of a row beyond which they go one by one: their
#: activations would take more memory than the model, and engines that compile for a shape another copy of it.
_ROWS = 8
_LARGE_BYTES, _LARGE_ROW_BYTES = 4 << 20, 1 << 18


@dataclass(frozen=True)
class Sight:
    """What a contender showed before any ranking. `objections` is empty when it may win."""

    agreement: Agreement
    objections: tuple[str, ...]
    placement: Placement
    load_ms: float
    load_memory_bytes: int
    peak_memory_bytes: int
    version: str
    task: Task | None = None


class Examiner:
    """Runs the golden set, and labelled data where there is some, through contenders."""

    def __init__(
        self,
        arena: Arena,
        folder: Path,
        bundle: Bundle,
        request: Request,
        weights_bytes: int,
    ) -> None:
        self._arena, self._folder, self._request, self._bundle = arena, folder, request, bundle
        self._signature = bundle.manifest.signature
        self._rows = rows_at_once(bundle.inputs(0), self._signature, weights_bytes)
        count = len(bundle.manifest.golden.cases)
        self._cases = [self._written(f"golden-{number}", bundle.inputs(number)) for number in range(count)]
        #: The task metric of the source framework, once a build that stands for it has run.
        self.source_metric: float | None = None
        self._eval = [] if request.evaluation is None else self._written("eval", request.evaluation.inputs)

    @property
    def inputs(self) -> list[Path]:
        """The files of golden inputs."""
        return list(chain.from_iterable(self._cases))

    @property
    def rows(self) -> int:
        """How many rows there are in all golden cases, about."""
        return self._rows * len(self.inputs)

    def _written(self, name: str, inputs: Values) -> list[Path]:
        return write_pieces(self._folder / name, inputs, self._signature, self._rows)

    def look(self, contender: Contender, beside: Sequence[str] = (), end: float = math.inf) -> Sight:
        """Load a contender, run everything through it until `end`, of `time.monotonic`, and say what it showed.

        Raises:
            WorkerFailed: it crashed, hung, was not done in time, outgrew its memory or refused to run.
        """
        worker = self._arena.ready(contender, beside, end)
        limit_s = self._arena.limits.call_s
        loaded = worker.call("memory", limit_s)
        for paths in self._cases:
            self._run(worker, paths, end)
        placement = _read_placement(worker.call("placement", limit_s))
        memory = worker.call("memory", limit_s)
        contender.row_bytes = max(0, memory["peak_bytes"] - loaded["peak_bytes"]) // self._rows
        self._arena.rest(contender, self._cases[0][0])
        agreement, reasons = self._judged(contender.build.precision)
        task = None
        if self._request.evaluation is not None:
            task = self._task(worker, self._request.evaluation, contender.build.precision, reasons, end)
            reasons = _task_objections(task, self._request.evaluation)
        if placement.fallback_share > 0:
            share, where = placement.fallback_share, ", ".join(placement.nodes)
            reasons = [*reasons, f"{share:.0%} of its nodes are not on {placement.asked} but on {where}"]
        contender.peak_memory_bytes = memory["peak_bytes"]
        contender.load_memory_bytes = max(contender.load_memory_bytes, memory["grown_bytes"])
        return Sight(
            agreement=agreement,
            objections=tuple(reasons),
            placement=placement,
            load_ms=round(contender.load_ms, 3),
            load_memory_bytes=contender.load_memory_bytes,
            peak_memory_bytes=contender.peak_memory_bytes,
            version=contender.version,
            task=task,
        )

    def _judged(self, precision: Precision) -> tuple[Agreement, list[str]]:
        """Compare what the latest contender answered with the golden outputs."""
        found = [(self._answers(paths), self._bundle.outputs(number)) for number, paths in enumerate(self._cases)]
        return compare(found), objections(found, self._request.tolerance, precision)

    def objections_at(self, contender: Contender, inputs: Path, batch: int, beside: Sequence[str]) -> tuple[str, ...]:
        """Return why a build that agrees row by row does not at `batch` rows, those of the first golden case in turn.

        Empty where a task metric decides, since that is not measured again for every batch size.

        Raises:
            WorkerFailed: it crashed, hung, outgrew its memory or refused to run.
        """
        if self._request.evaluation is not None or not tells_rows_apart(self._signature):
            return ()
        self._run(self._arena.ready(contender, beside), [inputs], math.inf)
        found = self._answers([inputs])
        golden = resized_outputs(self._bundle.outputs(0), self._signature, batch)
        reasons = objections([(found, golden)], self._request.tolerance, contender.build.precision)
        return tuple(f"at batch {batch}: {reason}" for reason in reasons)

    def _run(self, worker: Worker, inputs: Sequence[Path], end: float) -> None:
        """Run files of inputs; the answers to each lie in a file of their own."""
        for path in inputs:
            limit_s = min(self._arena.limits.call_s, max(0.0, end - time.monotonic()))
            try:
                worker.call("run", limit_s, inputs=str(path), outputs=str(_answers_to(path)))
            except WorkerFailed as failure:
                if failure.error is not None and failure.error.get("error") == UnavailableError.__name__:
                    told = failure.error
                    raise UnavailableError(told["what"], why=told["why"], hint=told["hint"]) from None
                raise

    def _answers(self, inputs: Sequence[Path]) -> dict[str, Value]:
        pieces = [read_values(_answers_to(path)) for path in inputs]
        try:
            return joined(pieces, self._signature)
        except InvalidError as error:
            raise WorkerFailed(f"{error.what}: {error.why}") from None

    def _task(
        self, worker: Worker, data: Evaluation, precision: Precision, objections: Sequence[str], end: float
    ) -> Task | None:
        self._run(worker, self._eval, end)
        name, value = metric(self._answers(self._eval), data.labels)
        if self.source_metric is None and precision is Precision.FP32 and not objections:
            # The source framework is not here any more; the first fp32 build that repeats its golden
            # outputs stands for it.
            self.source_metric = round(value, 6)
        if self.source_metric is None:
            return None
        return Task(name, self.source_metric, round(value, 6), len(data.labels))


def _answers_to(inputs: Path) -> Path:
    return inputs.with_name(f"answers-{inputs.name}")


def write_pieces(start: Path, values: Values, signature: Signature, most: int) -> list[Path]:
    """Write values as files of at most `most` rows, whose names begin with `start`, and return these."""
    paths = []
    for number, piece in enumerate(in_pieces(values, signature, most)):
        paths.append(start.with_name(f"{start.name}-{number}.npz"))
        write_values(paths[-1], piece)
    return paths


def rows_at_once(inputs: Values, signature: Signature, weights_bytes: int) -> int:
    """Return how many rows of such inputs go through a build of so many weights at a time."""
    row_bytes = size_bytes(row_of(inputs, signature, 0))
    return 1 if weights_bytes > _LARGE_BYTES or row_bytes > _LARGE_ROW_BYTES else _ROWS


def _read_placement(answer: object) -> Placement:
    try:
        return from_json(Placement, answer)
    except InvalidError as error:
        raise WorkerFailed(f"the engine's placement is no record: {error.what}") from None


def _task_objections(task: Task | None, data: Evaluation) -> list[str]:
    if task is None:
        return ["no fp32 build repeated the golden outputs before it, so that no drop can be told"]
    drop = task.source - task.build
    if drop <= data.max_drop:
        return []
    return [f"{task.metric} drops by {drop:.2%} to {task.build:.2%}, at most {data.max_drop:.2%} was asked for"]
