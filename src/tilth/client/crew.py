"""Several blobs on their way at a time, with one account of how far they are and one way to stop them."""

import queue
import threading
from collections.abc import Callable, Mapping

from tilth.client.progress import Progress
from tilth.core.errors import CancelledError

_HANDS = 4
_LOOK_S = 0.1
#: How long those who were told to stop are waited for.
_END_S = 2.0


class Crew:
    """Threads that work on blobs; `sizes` are the bytes of each, and `stage` is what progress calls it."""

    def __init__(self, stage: str, sizes: Mapping[str, int], progress: Progress) -> None:
        self._stage, self._sizes, self._progress = stage, sizes, progress
        self._done = dict.fromkeys(sizes, 0)
        self._names: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in sorted(sizes, key=lambda one: (-sizes[one], one)):
            self._names.put(name)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self, work: Callable[[str], None]) -> None:
        """Call `work` for every blob, the largest first, four at a time, and return when all are done.

        Progress is told in the thread of the caller. The first error stops all of it, and so does an error of
        progress, or Ctrl-C.

        Raises:
            BaseException: the first error.
        """
        hands = [threading.Thread(target=self._work, args=(work,), daemon=True) for _ in self._sizes][:_HANDS]
        try:
            for hand in hands:
                hand.start()
            for hand in hands:
                while hand.is_alive():
                    hand.join(_LOOK_S)
                    self._report()
        finally:
            self._stop.set()
            for hand in hands:
                if hand.is_alive():
                    hand.join(_END_S)
        if self._errors:
            raise self._errors[0]
        self._report()

    def moved(self, name: str, done_bytes: int) -> None:
        """Note how much of a blob is done, and return when there is no reason to stop.

        Raises:
            CancelledError: there is.
        """
        self._done[name] = done_bytes
        if self._stop.is_set():
            raise CancelledError(f"blob {name[:12]} was stopped on its way", hint="run it again to go on")

    def wait(self, pause_s: float) -> None:
        """Wait, less long when all is stopped meanwhile."""
        self._stop.wait(pause_s)

    def _work(self, work: Callable[[str], None]) -> None:
        while not self._stop.is_set():
            try:
                name = self._names.get_nowait()
            except queue.Empty:
                return
            try:
                work(name)
            except BaseException as error:
                self._errors.append(error)
                self._stop.set()
                return

    def _report(self) -> None:
        name = next((one for one, size in self._sizes.items() if 0 < self._done[one] < size), "")
        self._progress(self._stage, sum(self._done.values()), sum(self._sizes.values()), name and f"blob {name[:12]}")
