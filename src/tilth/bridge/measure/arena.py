"""Which contenders are loaded at a time: as many as the memory budget allows, at least two."""

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tilth.bridge.measure.timing import Samples
from tilth.bridge.measure.worker import Worker, memory_bytes, start
from tilth.core.build import Build
from tilth.core.device import Device
from tilth.core.record import to_json

#: What a child takes before it loads a model: the interpreter, numpy and an engine's libraries.
_BARE_BYTES = 100 << 20


@dataclass
class Contender:
    """A candidate in the search, with what is known of it so far.

    `row_bytes` is how much memory the first row took, what is compiled at the first call included.
    """

    build: Build
    model: Path
    weights_bytes: int
    load_ms: float = 0.0
    load_memory_bytes: int = 0
    peak_memory_bytes: int = 0
    row_bytes: int = 0
    version: str = ""
    samples: dict[int, Samples] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The build's id."""
        return self.build.id


@dataclass(frozen=True)
class Limits:
    """What one child may use, and what all of them may use together."""

    child_bytes: int
    total_bytes: int
    load_s: float = 120.0
    call_s: float = 60.0


class Arena:
    """Starts, loads, keeps and ends the children of contenders."""

    def __init__(self, command: Sequence[str], folder: Path, device: Device, limits: Limits) -> None:
        self._command, self._folder, self._device = command, folder, device
        self.limits = limits
        self._workers: dict[str, Worker] = {}
        self._count = itertools.count()

    def ready(self, contender: Contender, beside: Iterable[str] = (), end: float = math.inf) -> Worker:
        """Return the contender's loaded child; those of `beside` stay loaded, others may have to go.

        Loading has until `end`, of `time.monotonic`, and no longer than the limit.

        Raises:
            WorkerFailed: it could not load, was not done in time, crashed, or outgrew its memory.
        """
        worker = self._workers.pop(contender.id, None)
        if worker is None:
            self._make_room(contender, set(beside))
            worker = self._started(contender, end)
        self._workers[contender.id] = worker  # last used, last out
        return worker

    def fit_together(self, contenders: Sequence[Contender], more_bytes: int = 0) -> bool:
        """Return whether all of them may be loaded at the same time, and take that much more."""
        return sum(map(_expected_bytes, contenders)) + more_bytes <= self.limits.total_bytes

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

    def _make_room(self, coming: Contender, beside: set[str]) -> None:
        needed = _expected_bytes(coming)
        for contender_id in [one for one in self._workers if one not in beside]:
            used = sum(memory_bytes(worker.pid) for worker in self._workers.values())
            if used + needed <= self.limits.total_bytes:
                return
            self.drop(contender_id)

    def _started(self, contender: Contender, end: float) -> Worker:
        log = self._folder / f"{contender.id}-{next(self._count)}.log"
        worker = start(self._command, log, self.limits.child_bytes)
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
