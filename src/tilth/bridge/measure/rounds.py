"""One round of interleaved timing: every contender's block of calls right beside a block of the anchor."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tilth.bridge.measure.arena import Arena, Contender
from tilth.bridge.measure.timing import Samples
from tilth.bridge.measure.worker import WorkerFailed

#: Cycles a round: the median of five ratios shrugs off two disturbed ones.
CYCLES = 5
#: Cycles of a glance, whose median shrugs off one.
FEW_CYCLES = 3
_MOST_CALLS = 2000


class AnchorFailed(WorkerFailed):
    """The contender that all others are timed beside failed; its ratios to others end with it."""


def time_round(
    arena: Arena,
    anchor: Contender,
    contenders: Sequence[Contender],
    inputs: Path,
    batch: int,
    seconds: float,
    failed: Callable[[Contender, WorkerFailed], None],
    cycles: int = CYCLES,
    end: float = math.inf,
) -> None:
    """Add blocks to the samples of `contenders` and of `anchor` at this batch size, in about `seconds`.

    All contenders run in turn when they fit in memory together, else each runs against the anchor alone. One that
    dies or hangs is told to `failed` and is left out from then on. While the machine does not give all of its cores
    blocks are run again, for at most `seconds` more. After `end`, of `time.monotonic`, no further cycle is begun; each
    contender has had one by then.

    Raises:
        AnchorFailed: the anchor itself failed.
    """
    rivals = [c for c in contenders if c.id != anchor.id]
    patient = min(end, time.monotonic() + 2 * seconds)
    groups = [rivals] if arena.fit_together([anchor, *rivals]) else [[rival] for rival in rivals]
    for group in groups or [[]]:
        block_s = seconds / (max(1, len(groups)) * cycles * (len(group) + 1))
        _time_group(arena, anchor, group, inputs, batch, block_s, failed, cycles, end, patient)


def _time_group(
    arena: Arena,
    anchor: Contender,
    rivals: Sequence[Contender],
    inputs: Path,
    batch: int,
    block_s: float,
    failed: Callable[[Contender, WorkerFailed], None],
    cycles: int,
    end: float,
    patient: float,
) -> None:
    beside = [anchor.id, *(r.id for r in rivals)]
    active = list(rivals)
    for cycle in range(cycles):
        if cycle and time.monotonic() > end:
            break
        anchor_calls, anchor_clear = _anchor_block(arena, anchor, beside, inputs, block_s, patient)
        anchor_ns = median(anchor_calls)
        anchor.samples.setdefault(batch, Samples()).add(anchor_calls, anchor_ns, anchor_clear)
        shift = cycle % max(1, len(active))
        for rival in active[shift:] + active[:shift]:
            try:
                calls, clear = _block(arena, rival, beside, inputs, block_s, patient)
            except WorkerFailed as reason:
                arena.drop(rival.id)
                active.remove(rival)
                failed(rival, reason)
            else:
                rival.samples.setdefault(batch, Samples()).add(calls, anchor_ns, clear and anchor_clear)


def _anchor_block(
    arena: Arena, anchor: Contender, beside: Sequence[str], inputs: Path, seconds: float, patient: float
) -> tuple[list[int], bool]:
    try:
        return _block(arena, anchor, beside, inputs, seconds, patient)
    except WorkerFailed as failure:
        raise AnchorFailed(failure.reason, failure.last_words, failure.error, outgrew=failure.outgrew) from None


def _block(
    arena: Arena, contender: Contender, beside: Sequence[str], inputs: Path, seconds: float, patient: float
) -> tuple[list[int], bool]:
    """Return the calls of a block, and whether the machine gave all of its cores before and after it."""
    worker, call_s = arena.ready(contender, beside), arena.limits.call_s

    def calls() -> list[int]:
        reply = worker.call("time", call_s + seconds, inputs=str(inputs), seconds=seconds, most=_MOST_CALLS)
        taken: list[int] = reply["ns"]
        return taken

    return arena.cores.with_all(calls, patient)
