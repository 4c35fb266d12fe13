"""Whether the machine gives all of its cores: what they do at the same time beside what one does alone.

A virtual core may be half of a real one, and whose the other half is changes from second to second. A build with
several threads then loses more than one with few, so that such blocks tell nothing of those before and after them.
"""

import hashlib
import queue
import threading
import time

#: Below this share of the best that was seen the cores are not all ours.
_CLEAR = 0.85
_MOST_THREADS = 8
#: A digest of so much takes about a millisecond, and keeps most of a core busy while Python's lock is free.
_WORK = bytes(1 << 19)
_TRIES = 3


class Cores:
    """Looks at the cores of this process; nothing else of ours may run meanwhile."""

    def __init__(self, cores: int) -> None:
        self._alone_ns = 0
        self._best = 0.0
        self._orders = [queue.SimpleQueue[bool]() for _ in range(min(_MOST_THREADS, cores) - 1)]
        self._taken: queue.SimpleQueue[int] = queue.SimpleQueue()
        for order in self._orders:
            threading.Thread(target=self._help, args=(order,), daemon=True).start()

    def are_clear(self) -> bool:
        """Return whether the cores give what they gave at their best; takes a few milliseconds."""
        for _ in range(_TRIES):
            share = self._share()
            self._best = max(self._best, share)
            if share >= _CLEAR * self._best:
                return True
        return False

    def wait(self, end: float) -> bool:
        """Wait until they are clear, at most to `end` of `time.monotonic`, and return whether they are."""
        while not self.are_clear():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """End the threads."""
        for order in self._orders:
            order.put(False)

    def _share(self) -> float:
        alone = _digest_ns()
        self._alone_ns = min(self._alone_ns or alone, alone)
        for order in self._orders:
            order.put(True)
        slowest = max([_digest_ns(), *(self._taken.get() for _ in self._orders)])
        return min(1.0, self._alone_ns / slowest)

    def _help(self, order: "queue.SimpleQueue[bool]") -> None:
        while order.get():
            self._taken.put(_digest_ns())


def _digest_ns() -> int:
    began = time.perf_counter_ns()
    hashlib.blake2b(_WORK)
    return time.perf_counter_ns() - began
