"""Whether the machine gives all of its cores: what they do at the same time beside what one does alone.

A virtual core may be half of a real one, and whose the other half is changes from second to second. A build with
several threads then loses more than one with few, so that such blocks tell nothing of those before and after them.
"""

import contextlib
import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

#: Below this share of the best the cores are not all ours.
_CLEAR = 0.85
#: After so many looks, a few seconds, the best is what was seen. Until then it is all: a search may begin while the
#: machine gives half of its cores. One that never gives more, with two threads a core, is not waited for any longer.
_PATIENT_LOOKS = 500
_MOST_THREADS = 8
#: A digest of so much takes about a millisecond, and keeps most of a core busy while Python's lock is free.
_WORK = bytes(1 << 19)
_TRIES = 3
Seen = TypeVar("Seen")


class Cores:
    """Looks at the cores of this process; nothing else of ours may run meanwhile."""

    def __init__(self, cores: int) -> None:
        self._alone_ns = 0
        self._looks = 0
        self._best = 0.0
        self._taken: SimpleQueue[int] = SimpleQueue()
        self._orders: list[SimpleQueue[bool]] = []
        for place in _places(max(1, min(_MOST_THREADS, cores))):
            self._orders.append(SimpleQueue())
            threading.Thread(target=_work, args=(place, self._orders[-1], self._taken), daemon=True).start()
        weakref.finalize(self, _end, self._orders)

    def are_clear(self) -> bool:
        """Return whether the cores give what they can give; takes a few milliseconds."""
        for _ in range(_TRIES):
            share = self._share()
            self._looks += 1
            self._best = max(self._best, share)
            if share >= _CLEAR * (self._best if self._looks > _PATIENT_LOOKS else 1.0):
                return True
        return False

    def wait(self, end: float) -> bool:
        """Wait until they are clear, at most to `end` of `time.monotonic`, and return whether they are."""
        while not self.are_clear():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def with_all(self, run: Callable[[], Seen], patient: float) -> tuple[Seen, bool]:
        """Return what `run` returned, and whether they were clear before and after it.

        Where they were not it is run again, until `patient` of `time.monotonic` is past.
        """
        while True:
            before = self.wait(patient)
            seen = run()
            clear = before and self.are_clear()
            if clear or time.monotonic() > patient:
                return seen, clear

    def _share(self) -> float:
        """Return the time of one that works alone over that of the slowest when all work, at most 1."""
        alone = self._slowest_ns(self._orders[:1])
        self._alone_ns = min(self._alone_ns or alone, alone)
        return min(1.0, self._alone_ns / self._slowest_ns(self._orders))

    def _slowest_ns(self, orders: list[SimpleQueue[bool]]) -> int:
        for order in orders:
            order.put(True)
        return max(self._taken.get() for _ in orders)


def _places(count: int) -> list[set[int]]:
    """Return where `count` threads go, spread over the processors of this process; empty sets when nobody can say."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()] * count
    own = sorted(os.sched_getaffinity(0))
    return [{own[number * len(own) // count]} for number in range(count)]


def _work(place: set[int], order: "SimpleQueue[bool]", taken: "SimpleQueue[int]") -> None:
    # Each where it is told: for a millisecond the kernel would leave them all where they woke up.
    if place:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, place)
    while order.get():
        taken.put(_digest_ns())


def _end(orders: "list[SimpleQueue[bool]]") -> None:
    for order in orders:
        order.put(False)


def _digest_ns() -> int:
    began = time.perf_counter_ns()
    hashlib.blake2b(_WORK)
    return time.perf_counter_ns() - began
