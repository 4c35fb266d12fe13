"""Successive halving: who goes on to the next, longer round; pure.

K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016:
every round spends the same total time on half as many candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tilth.bridge.measure.timing import Samples, quantile

#: So far apart, with so many blocks each, that not one block of the slower came near one of the faster.
_FAR_AHEAD, _ENOUGH_BLOCKS = 1.02, 6


@dataclass(frozen=True)
class Verdict:
    """Who goes on, best first, and for each of the others why not."""

    survivors: tuple[str, ...]
    dropped: Mapping[str, str]


def halve(samples: Mapping[str, Samples], *, keep_at_least: int = 2) -> Verdict:
    """Keep the faster half by median ratio to the anchor, and everyone who may still be as fast as the last of them.

    A candidate whose quartiles overlap those of the best is never dropped here: more time decides, not luck.
    """
    middle = {name: quantile(s.ratios, 0.5) for name, s in samples.items()}
    order = sorted(middle, key=lambda name: (middle[name], name))
    count = max(keep_at_least, (len(order) + 1) // 2)
    best_high = quantile(samples[order[0]].ratios, 0.75)
    keep, dropped = [], {}
    for rank, name in enumerate(order):
        if rank < count or quantile(samples[name].ratios, 0.25) <= best_high:
            keep.append(name)
        else:
            dropped[name] = f"{middle[name] / middle[order[0]]:.2f} x the fastest, early round"
    return Verdict(tuple(keep), dropped)


def decided(samples: Mapping[str, Samples]) -> bool:
    """Return whether the best is far enough ahead of all others that more time would not change the order."""
    best, *others = sorted((one.ratios for one in samples.values()), key=lambda ratios: quantile(ratios, 0.5))
    return all(
        len(one) >= _ENOUGH_BLOCKS and len(best) >= _ENOUGH_BLOCKS and one[0] > best[-1] * _FAR_AHEAD for one in others
    )


def rounds(seconds: float, candidates: int, first_block_s: float = 0.02) -> list[float]:
    """Return the seconds per round for a total of `seconds`: equal shares, as many rounds as halvings."""
    count = max(1, (max(candidates, 2) - 1).bit_length())
    return [max(first_block_s * candidates, seconds / count)] * count
