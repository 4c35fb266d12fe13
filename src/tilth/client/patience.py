"""How long to go on where nobody answers, and how long to wait between tries."""

import random
import time

from tilth.client.errors import AwayError
from tilth.core.errors import TilthError

TRIES = 3
_FIRST_S, _MOST_S = 0.25, 8.0
#: A server that wants to be left alone for longer than this is not waited for.
_MOST_AFTER_S = 60.0


class Patience:
    """Three tries, and as many more as begin within `most_s`; `moved` starts anew.

    Beyond three tries nobody is asked who answered with a reason of its own: a full disk stays full.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self.moved()

    def moved(self) -> None:
        """Note that something was achieved."""
        self._tries, self._until = 0, time.monotonic() + self._most_s

    def pause_s(self, error: TilthError) -> float:
        """Return how long to wait after a try that ended in `error`: about twice as long each time.

        Raises:
            TilthError: `error` itself, when there were enough tries.
        """
        self._tries += 1
        away = error if isinstance(error, AwayError) else None
        over = time.monotonic() > self._until or (away is not None and away.told)
        if (self._tries >= TRIES and over) or (away is not None and away.after_s > _MOST_AFTER_S):
            raise error
        doubled: float = min(_MOST_S, _FIRST_S * 2 ** min(self._tries - 1, 10))
        # Nothing secret: only so that clients that were cut off together do not come back together.
        return max(doubled * random.uniform(0.5, 1.5), away.after_s if away else 0.0)  # noqa: S311
