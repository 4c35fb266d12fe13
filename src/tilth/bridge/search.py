"""The search for the fastest build that agrees: every candidate is looked at, then successive halving decides."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tilth.bridge.batch import resized
from tilth.bridge.candidates import Candidate
from tilth.bridge.choose import TIE
from tilth.bridge.halving import decided, halve, rounds
from tilth.bridge.lanes import LEAST_MS
from tilth.bridge.measure.arena import Arena, Contender
from tilth.bridge.measure.rounds import CYCLES, FEW_CYCLES, AnchorFailed, time_round
from tilth.bridge.measure.timing import Samples, quantile
from tilth.bridge.measure.worker import WorkerFailed
from tilth.bridge.request import Request
from tilth.bridge.sight import Examiner, Sight
from tilth.bridge.value_file import write_values
from tilth.core.build import Build, Refusal, Verdict
from tilth.core.bundle import Refused
from tilth.core.signature import Signature
from tilth.ports.arrays import Values
from tilth.ports.engine import Option

#: When the phases of a search end, as shares of the budget: looking at candidates, ranking those that agree, and timing
#: them at other batch sizes where lanes come after it.
_LOOKED, _RANKED, _BATCHED = 0.7, 0.82, 0.88
#: Share of the budget for timing all candidates at first sight, and the most for one of them, in seconds.
_GLANCE_SHARE, _LONGEST_GLANCE_S = 0.3, 0.6
#: A contender this many times slower than the anchor is not timed twice.
_HOPELESS = 8.0
#: What one call may take at the batch size that ranks, unless it is the smallest; others are for those that are left.
_LONGEST_CALL_S = 0.5
#: How many are timed at every batch size, at most.
_FINALISTS = 3
#: What a candidate that runs when the looks end may still take, in seconds.
_GRACE_S = 1.0
#: What a build takes beside three times the weights, and how much of it is this process with numpy, onnx and two
#: sets of outputs to compare.
_TOGETHER_BYTES, _OWN_BYTES = 500_000_000, 110_000_000
_NO_TIME = Refusal(Verdict.TODO, "the budget ended before it was measured; give more with `--budget`")


class Progress(Protocol):
    """Told what the search does, for people."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` steps of `stage` are finished; `detail` names the one that is next."""
        ...


@dataclass
class State:
    """Everything that was found out so far; it survives an interrupt."""

    contenders: dict[str, Contender] = field(default_factory=dict)
    sights: dict[str, Sight] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    anchor: str = ""
    main_batch: int = 0
    rounds_done: int = 0
    batches_done: bool = False

    @property
    def able(self) -> list[Contender]:
        """Contenders that agree and were not dropped."""
        return [
            c
            for c in self.contenders.values()
            if c.id in self.sights and not self.sights[c.id].objections and c.id not in self.dropped
        ]


class Search:
    """One search over candidates of one graph on one device; `save` is called whenever something was learned.

    `end` is when the budget ends, of `time.monotonic`.
    """

    def __init__(
        self,
        arena: Arena,
        examiner: Examiner,
        request: Request,
        signature: Signature,
        sample: Callable[[], Values],
        folder: Path,
        state: State,
        save: Callable[[State], None],
        progress: Progress,
        end: float,
    ) -> None:
        self._arena, self._examiner, self._request = arena, examiner, request
        self._signature, self._sample, self._folder = signature, sample, folder
        self.state, self._save, self._progress = state, save, progress
        self._batches = self._batch_sizes()
        self._end = end
        self._outgrown: list[Contender] = []

    @property
    def main_batch(self) -> int:
        """The batch size that ranks: the smallest for latency, the largest that is quick to time for throughput."""
        return self.state.main_batch if self.state.main_batch in self._batches else self._batches[0]

    def run(self, candidates: Iterator[Candidate], total: Callable[[], int]) -> list[Candidate]:
        """Look at every candidate, halve until few are left, and time those at the other batch sizes.

        `candidates` are made as they are asked for, `total` says how many at most. Returns the candidates.
        """
        made = self._first_look(candidates, total)
        self._halve(self._until(_RANKED))
        if not self.state.batches_done:
            self._other_batches()
            self.state.batches_done = True
            self._save(self.state)
        return made

    def _until(self, share: float) -> float:
        return self._end - self._request.budget_s * (1 - share)

    def left_s(self) -> float:
        """Return how much of the budget is left, in seconds."""
        return max(_GRACE_S, self._end - time.monotonic())

    def recipe_s(self) -> float:
        """Return how long the next recipe may take, in seconds."""
        return max(_GRACE_S, self._until(_LOOKED) - time.monotonic())

    def why_not(self, build: Build, option: Option) -> Refusal | None:
        """Return why a build is not to be looked at, None when it is.

        There is no time left to begin with it, or one that promises more agrees. Without time an engine still has one
        turn while nothing agrees.
        """
        better = [c.build for c in self.state.able if c.build.recipe == option.instead_of]
        if option.instead_of and better:
            return Refusal(Verdict.NEVER, f"`{better[0].label}` agrees, and this would be slower")
        if time.monotonic() <= self._until(_LOOKED):
            return None
        had_turn = build.engine in {c.build.engine for c in self.state.contenders.values()}
        return _NO_TIME if self.state.able or had_turn else None

    def _first_look(self, candidates: Iterator[Candidate], total: Callable[[], int]) -> list[Candidate]:
        made: list[Candidate] = []
        for number, candidate in enumerate(candidates):
            made.append(candidate)
            build = candidate.build
            glance_s = min(_LONGEST_GLANCE_S, self._request.budget_s * _GLANCE_SHARE / max(1, total()))
            self._progress("measuring", number, total(), build.label)
            contender = Contender(build, candidate.variant.model, candidate.variant.graph.weights_bytes)
            known = self.state.contenders.setdefault(build.id, contender)
            known.model = contender.model
            if build.id not in self.state.sights and build.id not in self.state.refused:
                self._look(known, glance_s)
                self._save(self.state)
        if made:
            self._look_again(glance_s)
        self._progress("measuring", 1, 1)
        return made

    def _look_again(self, glance_s: float) -> None:
        """Look again at those that outgrew their memory when nothing else agrees, with all that one child may take."""
        if self.state.able or not self._outgrown or not self._arena.widen():
            return
        for contender in self._outgrown:
            del self.state.refused[contender.id]
            self._look(contender, glance_s)
            self._save(self.state)

    def _look(self, contender: Contender, glance_s: float) -> None:
        # Something agrees already: this one has the time that is left and no more.
        late = self._until(_LOOKED) + _GRACE_S if self.state.able else math.inf
        try:
            sight = self._sight(contender, late)
            self.state.sights[contender.id] = sight
            if not sight.objections:
                self._compare(contender, glance_s)
            else:
                self._arena.drop(contender.id)
        except AnchorFailed as error:
            self._replace_anchor(error)
        except WorkerFailed as error:
            if error.outgrew:
                self._outgrown.append(contender)
            self._fail(contender, error, out_of_time=time.monotonic() >= late)

    def _sight(self, contender: Contender, late: float) -> Sight:
        """Return what a contender shows; one that does not fit beside others is given all their room."""
        try:
            return self._examiner.look(contender, [self.state.anchor], late)
        except WorkerFailed as error:
            self._arena.drop(contender.id)
            if not error.outgrew or not self._arena.crowded:
                raise
            self._arena.keep(())
            return self._examiner.look(contender, [], late)

    def _replace_anchor(self, error: WorkerFailed) -> None:
        """Refuse the anchor and time everyone again beside a new one: ratios to two anchors cannot be ranked."""
        self._fail(self.state.contenders[self.state.anchor], error)
        self.state.anchor = ""
        self.state.dropped.clear()
        for contender in self.state.contenders.values():
            contender.samples.clear()
        for contender in self.state.able:
            if contender.id not in self.state.refused and not contender.samples:
                self._time_again(contender)

    def _time_again(self, contender: Contender) -> None:
        try:
            self._compare(contender, 1.0)
        except AnchorFailed as error:
            self._replace_anchor(error)
        except WorkerFailed as error:
            self._fail(contender, error)

    def _compare(self, contender: Contender, seconds: float) -> None:
        """Time a contender beside the anchor; the first one becomes the anchor."""
        anchor = self.state.contenders.get(self.state.anchor)
        if anchor is None:
            if self._request.goal == "throughput" and not self.state.main_batch:
                self.state.main_batch = self._largest_quick_batch(contender)
            self.state.anchor = contender.id
            self._time([], self.main_batch, seconds, self._end, FEW_CYCLES)
            return
        typical = quantile(sorted(anchor.samples[self.main_batch].medians), 0.5)
        quickest = self._quickest_ns(contender, _HOPELESS * typical)
        if quickest > _HOPELESS * typical:
            contender.samples.setdefault(self.main_batch, Samples()).add([quickest], typical)
            self._drop(contender.id, f"{quickest / typical:.0f} x the first, at a glance")
            return
        self._time([contender], self.main_batch, seconds, self._end, FEW_CYCLES)

    def _time(self, rivals: Sequence[Contender], batch: int, seconds: float, end: float, cycles: int = CYCLES) -> None:
        anchor, inputs = self.state.contenders[self.state.anchor], self.inputs(batch)
        time_round(self._arena, anchor, rivals, inputs, batch, seconds, self._fail, cycles, end)

    def _quickest_ns(self, contender: Contender, good_ns: float) -> int:
        """Return the shortest of up to three calls, stopping at one that is good enough."""
        worker, inputs = self._arena.ready(contender, [self.state.anchor]), str(self.inputs(self.main_batch))
        taken: list[int] = []
        while len(taken) < 3 and (not taken or min(taken) > good_ns):
            taken += worker.call("time", self._arena.limits.call_s, inputs=inputs, seconds=0.0, most=1)["ns"]
        return min(taken)

    def _largest_quick_batch(self, contender: Contender) -> int:
        row_s = self._quickest_ns(contender, 0.0) / 1e9 / self._batches[0]
        quick = [batch for batch in self._batches if row_s * batch <= _LONGEST_CALL_S]
        return max(quick, default=self._batches[0])

    def _halve(self, end: float) -> None:
        able = [c for c in self.state.able if self.main_batch in c.samples]
        plan = rounds(max(0.5, end - time.monotonic()), len(able))
        for number in range(self.state.rounds_done, len(plan)):
            able = [c for c in self.state.able if self.main_batch in c.samples]
            if len(able) < 2 or time.monotonic() > end:
                break
            verdict = halve({c.id: c.samples[self.main_batch] for c in able})
            for name, why in verdict.dropped.items():
                self._drop(name, why)
            kept = [self.state.contenders[name] for name in verdict.survivors]
            if decided({c.id: c.samples[self.main_batch] for c in kept}):
                break
            self._progress("halving", number, len(plan), f"{len(kept)} left")
            seconds = min(plan[number], self._enough_s(kept))
            self._round(kept, self.main_batch, seconds, end)
            self.state.rounds_done = number + 1
            self._save(self.state)
        self._progress("halving", len(plan), len(plan))

    def _enough_s(self, contenders: Sequence[Contender]) -> float:
        """Return how long a round is worth while: about 1,000 calls of each contender, at most what is planned."""
        slowest_ns = max(quantile(sorted(c.samples[self.main_batch].medians), 0.5) for c in contenders)
        return max(1.0, len(contenders) * 1000 * slowest_ns / 1e9)

    def _round(self, rivals: Sequence[Contender], batch: int, seconds: float, end: float, cycles: int = CYCLES) -> None:
        try:
            self._time(rivals, batch, seconds, end, cycles)
        except AnchorFailed as error:
            self._replace_anchor(error)

    def _other_batches(self) -> None:
        others = [batch for batch in self._batches if batch != self.main_batch]
        for number, batch in enumerate(others):
            self._progress("batches", number, len(others), f"batch {batch}")
            finalists = self._finalists()
            end = self._until(_BATCHED) if any(map(self._may_have_lanes, finalists)) else self._end
            left = end - time.monotonic()
            if not finalists or self._cycle_s(finalists, batch) > left or not self._has_room(finalists, batch):
                break
            everyone = {c.id: c for c in (self.state.contenders[self.state.anchor], *finalists)}
            # Where there is no room for what was compiled at another size, all begin anew with this one.
            self._arena.keep(everyone if self._arena.fit_again(everyone.values()) else ())
            seconds = min(left / (len(others) - number), 0.7 * len(finalists))
            self._round(finalists, batch, seconds, end, FEW_CYCLES)
            for contender in finalists:
                if contender.id not in self.state.refused:
                    self._check(contender, batch)
        self._progress("batches", len(others), len(others))

    def _may_have_lanes(self, contender: Contender) -> bool:
        return self._call_s(contender, self._batches[0]) * 1e3 >= LEAST_MS

    def _check(self, contender: Contender, batch: int) -> None:
        """Hold what was timed at a batch size to the terms of the search."""
        try:
            found = self._examiner.objections_at(contender, self.inputs(batch), batch, [self.state.anchor])
        except WorkerFailed as error:
            self._fail(contender, error)
            return
        sight = self.state.sights[contender.id]
        if found:
            self.state.sights[contender.id] = replace(sight, objections=(*sight.objections, *found))

    def _has_room(self, contenders: Sequence[Contender], batch: int) -> bool:
        """Return whether the anchor and a contender may be loaded together while they hold `batch` rows."""
        anchor = self.state.contenders[self.state.anchor]
        more = (batch - self.main_batch) * anchor.row_bytes
        return all(self._arena.fit_together([anchor, c], 2 * more) for c in contenders)

    def _finalists(self) -> list[Contender]:
        middle = {
            c.id: quantile(c.samples[self.main_batch].ratios, 0.5)
            for c in self.state.able
            if self.main_batch in c.samples
        }
        # For latency any of those that are as fast as the fastest may be chosen, and no other.
        most = min(middle.values(), default=0.0) * (1 + TIE) if self._request.goal == "latency" else math.inf
        ranked = sorted((name for name in middle if middle[name] <= most), key=lambda name: (middle[name], name))
        return [self.state.contenders[name] for name in ranked[:_FINALISTS]]

    def _cycle_s(self, contenders: Sequence[Contender], batch: int) -> float:
        """Return what the first cycle of a round takes at least: each compiles, then calls twice."""
        anchor = self.state.contenders[self.state.anchor]
        everyone = {c.id: c for c in (anchor, *contenders)}.values()
        return sum(2 * self._call_s(c, batch) + c.load_ms / 1e3 for c in everyone)

    def _call_s(self, contender: Contender, batch: int) -> float:
        medians = sorted(contender.samples[self.main_batch].medians)
        return quantile(medians, 0.5) / 1e9 * batch / self.main_batch

    def _batch_sizes(self) -> list[int]:
        if not self._signature.dynamic_batch:
            return [1]
        return sorted(set(self._request.batches))

    def inputs(self, batch: int) -> Path:
        """Return the file of inputs of so many rows, those of the first golden case in turn."""
        path = self._folder / f"batch-{batch}.npz"
        if not path.exists():
            fixed = not self._signature.dynamic_batch
            sample = self._sample()
            write_values(path, sample if fixed else resized(sample, self._signature, batch))
        return path

    def _drop(self, contender_id: str, why: str) -> None:
        self.state.dropped[contender_id] = why
        if contender_id != self.state.anchor:
            self._arena.drop(contender_id)

    def _fail(self, contender: Contender, error: WorkerFailed, *, out_of_time: bool = False) -> None:
        self._arena.drop(contender.id)
        self.state.sights.pop(contender.id, None)
        refusal = _NO_TIME if out_of_time else Refusal(Verdict.UPSTREAM, error.reason)
        if error.outgrew:
            refusal = Refusal(Verdict.TODO, f"it {error.reason}; allow more with `--memory`")
        label, target = contender.build.label, contender.build.target
        self.state.refused[contender.id] = Refused(label, (refusal,), target, error.last_words)


def estimate_limits(weights_bytes: int, device_bytes: int, asked_bytes: int) -> tuple[int, int]:
    """Return the memory limit of one child and of all loaded children together, in bytes.

    A build keeps within three times the weights plus 500 MB as long as anything agrees in that; what this process takes
    for it is a part. A single child may take eight times the
    weights plus 1.5 GiB where it must, but not more than 80 % of the device.
    """
    child = asked_bytes or min(8 * weights_bytes + (3 << 29), math.floor(device_bytes * 0.8) or (1 << 62))
    return child, max(asked_bytes, 3 * weights_bytes + _TOGETHER_BYTES - _OWN_BYTES)
