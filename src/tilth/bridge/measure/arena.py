"""Which contenders are loaded at a time: as many as the memory budget allows, at least the one that runs."""

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tilth.bridge.measure.cores import Cores
from tilth.bridge.measure.timing import Samples
from tilth.bridge.measure.worker import Worker, memory_bytes, start
from tilth.core.build import Build
from tilth.core.device import Device
from tilth.core.record import to_json

#: What calls keep for the next one is given back between them from this size on.
_KEPT_BYTES = 64 << 20
#: What a child takes before it loads a model: the interpreter, numpy and an engine's libraries.
_BARE_BYTES = 100 << 20


@dataclass
class Contender:
    """A candidate in the search, with what is known of it so far.

    `row_bytes` is how much memory the first row took, what is compiled at the first call included. `running_bytes` is
    the proportional set size after calls, what these keep for the next one included; 0 before it was seen.
    """

    build: Build
    model: Path
    weights_bytes: int
    load_ms: float = 0.0
    load_memory_bytes: int = 0
    peak_memory_bytes: int = 0
    row_bytes: int = 0
    running_bytes: int = 0
    version: str = ""
    samples: dict[int, Samples] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The build's id."""
        return self.build.id


@dataclass(frozen=True)
class Limits:
    """What one child may use at the most, and what all of them use together as long as something can run in that."""

    child_bytes: int
    total_bytes: int
    load_s: float = 120.0
    call_s: float = 60.0


class Arena:
    """Starts, loads, keeps and ends the children of contenders.

    Those that wait rest, or go, when the one that comes would not fit beside what they hold.
    """

    def __init__(self, command: Sequence[str], folder: Path, device: Device, limits: Limits) -> None:
        self._command, self._folder, self._device = command, folder, device
        self.limits = limits
        self.cores = Cores(device.cores)
        self._workers: dict[str, Worker] = {}
        self._contenders: dict[str, Contender] = {}
        self._count = itertools.count()

    def ready(self, contender: Contender, beside: Iterable[str] = (), end: float = math.inf) -> Worker:
        """Return the contender's loaded child; others may have to go, those of `beside` last.

        Loading has until `end`, of `time.monotonic`, and no longer than the limit.

        Raises:
            WorkerFailed: it could not load, was not done in time, crashed, or outgrew its memory.
        """
        worker = self._workers.pop(contender.id, None)
        left = self._make_room(contender, set(beside))
        if worker is None:
            worker = self._started(contender, end, left)
        # What it takes is known once it was seen, and room was made for that.
        worker.memory_bytes = self.limits.child_bytes if contender.running_bytes else left
        self._workers[contender.id] = worker  # last used, last out
        self._contenders[contender.id] = contender
        return worker

    @property
    def crowded(self) -> bool:
        """Whether more than one child is loaded."""
        return len(self._workers) > 1

    def widen(self) -> bool:
        """Let one child take all that it may instead of all that is there for everyone; return whether that is more."""
        wider = replace(self.limits, total_bytes=max(self.limits.total_bytes, self.limits.child_bytes))
        changed, self.limits = wider != self.limits, wider
        return changed

    def rest(self, contender: Contender, inputs: Path) -> None:
        """Let the contender's child give back what its calls on `inputs` keep, when that is worth the next one's time.

        Raises:
            WorkerFailed: it crashed or hung.
        """
        worker = self._workers[contender.id]
        contender.running_bytes = max(contender.running_bytes, memory_bytes(worker.pid))
        if contender.row_bytes >= _KEPT_BYTES:
            worker.call("rest", self.limits.call_s, inputs=str(inputs))

    def fit_together(self, contenders: Sequence[Contender], more_bytes: int = 0) -> bool:
        """Return whether all of them may be loaded at the same time, and take that much more."""
        return sum(map(_expected_bytes, contenders)) + more_bytes <= self.limits.total_bytes

    def fit_again(self, contenders: Iterable[Contender]) -> bool:
        """Return whether all of them, as they run, may once more take what the first row took.

        An engine that compiles for the sizes of a call does so for each, and keeps what it has.
        """
        return sum(c.running_bytes + c.row_bytes for c in contenders) <= self.limits.total_bytes

    def keep(self, contenders: Iterable[str]) -> None:
        """End every child but those of `contenders`."""
        for contender_id in self._workers.keys() - set(contenders):
            self.drop(contender_id)

    def drop(self, contender_id: str) -> None:
        """End the contender's child, if it has one."""
        worker = self._workers.pop(contender_id, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End every child."""
        self.keep(())

    def _make_room(self, coming: Contender, beside: set[str]) -> int:
        """End others until the one that comes fits, and return what that one may take."""
        needed, total = self._needed_bytes(coming), min(self.limits.total_bytes, self.limits.child_bytes)
        if sum(map(self._needed_bytes, [self._contenders[one] for one in self._workers]), needed) <= total:
            return total
        # False before True, and in each the one that was used least lately.
        for contender_id in sorted(self._workers, key=lambda one: one in beside):
            left = self.limits.total_bytes - sum(memory_bytes(worker.pid) for worker in self._workers.values())
            if needed <= left:
                return min(left, total)
            self.drop(contender_id)
        return total

    def _needed_bytes(self, coming: Contender) -> int:
        if coming.running_bytes:
            return coming.running_bytes
        # It runs the same graph on the same rows: what calls took in others they will take in this one.
        calls = max((one.row_bytes for one in self._contenders.values()), default=0)
        return _expected_bytes(coming) + calls

    def _started(self, contender: Contender, end: float, most_bytes: int) -> Worker:
        log = self._folder / f"{contender.id}-{next(self._count)}.log"
        worker = start(self._command, log, most_bytes)
        try:
            reply = worker.call(
                "load",
                min(self.limits.load_s, max(0.0, end - time.monotonic())),
                model=str(contender.model),
                build=to_json(contender.build),
                device=to_json(self._device),
            )
        except BaseException:
            worker.close()
            raise
        contender.load_ms = reply["load_ms"]
        contender.load_memory_bytes = reply["memory_bytes"]
        contender.version = reply["version"]
        return worker


def _expected_bytes(contender: Contender) -> int:
    # Before it was seen: an engine may hold the weights as they were, as it wants them, and as it compiled them.
    model = contender.load_memory_bytes or contender.weights_bytes * 3
    return _BARE_BYTES + model
