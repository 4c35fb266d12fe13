"""Which versions of a model are served and which one answers a request; pure."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from tilth.core.errors import InvalidError

LATEST, ALL = "latest", "all"


@dataclass(frozen=True)
class Policy:
    """What is served of a model.

    `versions` is `latest`, `all`, or the versions by name. `split` maps versions to weights for requests that name no
    version; empty means that the newest answers. `shadow` maps versions to the share (0 to 1) of requests that they
    see beside the one that answers; what they say is measured and thrown away.
    """

    versions: str | tuple[str, ...] = LATEST
    split: Mapping[str, float] = field(default_factory=dict)
    shadow: Mapping[str, float] = field(default_factory=dict)

    def served(self, have: Sequence[str]) -> list[str]:
        """Return the versions to load out of those that there are, oldest first.

        Versions that the split or the shadow names are served, too.

        Raises:
            InvalidError: one that is named is not there.
        """
        named = [*self.split, *self.shadow, *(() if isinstance(self.versions, str) else self.versions)]
        absent = [version for version in named if version not in have]
        if absent:
            raise InvalidError(
                f"there is no version `{absent[0]}`",
                why="there are: " + ", ".join(ordered(have)),
                hint="see `--policy`",
            )
        wanted = set(named)
        if self.versions == ALL:
            wanted |= set(have)
        elif self.versions == LATEST and not self.split:
            # A version that only looks on is not the one that answers.
            wanted |= set([version for version in ordered(have) if version not in self.shadow][-1:])
        return [version for version in ordered(have) if version in wanted]


def ordered(versions: Sequence[str]) -> list[str]:
    """Return versions oldest first: numbers by value, before names by spelling."""
    return sorted(versions, key=lambda v: (0, int(v), "") if v.isdecimal() else (1, 0, v))


class Splitter:
    """Picks a version by weight out of those that are ready."""

    def __init__(self, policy: Policy, ready: Sequence[str]) -> None:
        live = ordered([version for version in ready if version not in policy.shadow or version in policy.split])
        weights = {version: weight for version, weight in policy.split.items() if version in live and weight > 0}
        self._versions = list(weights) or live[-1:]
        sums = list(accumulate(weights.values())) or [1.0]
        self._ends = [end / sums[-1] for end in sums]
        self.shadows = [(version, share) for version, share in policy.shadow.items() if version in ready]
        #: The one that answers when there is no choice to make.
        self.only = self._versions[0] if len(self._versions) == 1 else ""

    def pick(self, chance: float) -> str:
        """Return the version for `chance`, 0 to 1 and below 1; empty when none is ready."""
        if self.only or not self._versions:
            return self.only
        return self._versions[min(bisect_right(self._ends, chance), len(self._versions) - 1)]
