"""Peak memory of a process and all its descendants: the largest sum of proportional set sizes that was seen."""

import contextlib
import threading
import time
from pathlib import Path

from tilth.bridge.measure.worker import memory_bytes


class PeakMemory:
    """Samples the process tree below `pid` every 50 ms between `start` and `stop`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_bytes = 0

    def start(self) -> "PeakMemory":
        """Begin to sample."""
        self._thread.start()
        return self

    def stop(self) -> int:
        """Stop sampling and return the peak in bytes."""
        self._stop.set()
        self._thread.join()
        return self.peak_bytes

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.peak_bytes = max(self.peak_bytes, sum(map(memory_bytes, _tree(self._pid))))
            time.sleep(0.05)


def _tree(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                waiting += [int(child) for child in task.read_text(encoding="ascii").split()]
    return found
