"""From raw call times to figures; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from tilth.core.certificate import Timing

#: Above this interquartile range of block medians over their median, the machine was too busy to rank close builds.
NOISY = 0.10
#: So many blocks with all cores are better than more without; a glance has no more.
_ENOUGH_CLEAR = 3


@dataclass
class Samples:
    """The call times of one build at one batch size, block by block, in nanoseconds.

    Block i ran right beside block i of the anchor, so that whatever slowed the machine slowed both. `clear` says
    whether the machine gave all of its cores meanwhile: figures are those of such blocks, once there are enough.
    """

    blocks: list[list[int]] = field(default_factory=list)
    anchors: list[float] = field(default_factory=list)
    clear: list[bool] = field(default_factory=list)

    def add(self, calls: Sequence[int], anchor_ns: float, clear: bool = True) -> None:
        """Add one block of calls, the median call of the anchor beside it, and whether both had all cores."""
        self.blocks.append(list(calls))
        self.anchors.append(anchor_ns)
        self.clear.append(clear)

    @property
    def counted(self) -> list[list[int]]:
        """The blocks that count."""
        return [self.blocks[number] for number in self._counted]

    @property
    def medians(self) -> list[float]:
        """The median call of each block that counts."""
        return [median(block) for block in self.counted]

    @property
    def ratios(self) -> list[float]:
        """This build's time over the anchor's, per block that counts, sorted."""
        return sorted(median(self.blocks[number]) / self.anchors[number] for number in self._counted)

    @property
    def _counted(self) -> list[int]:
        clear = [number for number, one in enumerate(self.clear) if one]
        return clear if len(clear) >= min(_ENOUGH_CLEAR, len(self.blocks)) else list(range(len(self.blocks)))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the `share` quantile of sorted values, between neighbours linearly."""
    position = (len(values) - 1) * share
    low = int(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


def summary(samples: Samples, batch: int, anchor: str) -> Timing:
    """Return the figures of one build at one batch size; `anchor` is the id of the build beside it."""
    calls = sorted(ns for block in samples.counted for ns in block)
    ratios = samples.ratios
    medians = sorted(samples.medians)
    spread = (quantile(medians, 0.75) - quantile(medians, 0.25)) / quantile(medians, 0.5)
    p50 = quantile(calls, 0.5)
    return Timing(
        batch=batch,
        p50_ms=round(p50 / 1e6, 6),
        p95_ms=round(quantile(calls, 0.95) / 1e6, 6),
        p99_ms=round(quantile(calls, 0.99) / 1e6, 6),
        rows_per_s=round(batch * 1e9 / p50, 3),
        calls=len(calls),
        noise=round(spread, 4),
        reference_build=anchor,
        ratio=_shortened(quantile(ratios, 0.5)),
        ratio_low=_shortened(quantile(ratios, 0.25)),
        ratio_high=_shortened(quantile(ratios, 0.75)),
    )


def _shortened(ratio: float) -> float:
    # By digits, not by places: a ratio of nothing would make every other build infinitely slower.
    return float(f"{ratio:.5g}")
