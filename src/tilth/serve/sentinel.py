"""What a process runs at this moment, told to its parent through a shared page: whom to blame when it dies or hangs."""

import mmap
import time
from pathlib import Path

_WORDS = 2
_STEP_S = 0.5


class Sentinel:
    """A page with the slot of the model version that runs, plus one, and since when, in nanoseconds.

    One process writes, one reads. A word is written at once, so that the reader sees old or new.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.touch(0o600)
        with path.open("r+b") as file:
            file.truncate(_WORDS * 8)
            self._map = mmap.mmap(file.fileno(), _WORDS * 8)
        self._seen, self._looked = (0, 0.0), time.monotonic()
        self._words = memoryview(self._map).cast("Q")

    def enter(self, slot: int, since_ns: int = 0) -> None:
        """Note that the model version in `slot` begins to run, or since when it does, of `time.monotonic_ns`."""
        words = self._words
        words[1] = since_ns or time.monotonic_ns()
        words[0] = slot + 1

    def leave(self) -> None:
        """Note that it is done."""
        self._words[0] = 0

    def running(self) -> tuple[int, float] | None:
        """Return which slot runs and for how many seconds it was seen to, None when nothing does.

        Seconds count from one look to the next, each for at most half of one: when the machine or all of us were
        stopped for a while, nobody hangs.
        """
        since, slot, now = self._words[1], self._words[0], time.monotonic()
        if not slot:
            self._seen = (0, 0.0)
        elif self._seen[0] != since:
            self._seen = (since, 0.0)
        else:
            self._seen = (since, self._seen[1] + min(_STEP_S, now - self._looked))
        self._looked = now
        return None if not slot else (slot - 1, self._seen[1])

    def close(self) -> None:
        """Give the page back."""
        self._words.release()
        self._map.close()
