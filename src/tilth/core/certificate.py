"""What was measured of a build on a named device."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilth.core.device import Device

#: Stands for an infinite error in records.
INFINITE = 1e308


@dataclass(frozen=True)
class Agreement:
    """How close a build's outputs are to the golden outputs.

    `max_abs` is max |a-b|. `max_rel` is max |a-b| / max(|b|, rms(b)) and `rms_rel` is rms(a-b) / rms(b), the
    largest over outputs and cases, b the golden one. `cosine` is the smallest similarity over float outputs.
    `decisions` is the share of equal decisions: argmax over the last axis of float outputs of rank 2, rows of scores,
    equality for the others; `exact` is the share of equal values in outputs that are not floats. `rows` counts
    the rows compared. An infinite error is stored as `INFINITE`, since JSON has none.
    """

    max_abs: float
    max_rel: float
    rms_rel: float
    cosine: float
    decisions: float
    exact: float
    rows: int


@dataclass(frozen=True)
class Task:
    """The task metric on labelled data, of the source framework and of this build, higher is better."""

    metric: str
    source: float
    build: float
    rows: int


@dataclass(frozen=True)
class Timing:
    """Latency of one call at one batch size, in milliseconds, and rows per second.

    `ratio` is the median, over interleaved blocks, of this build's time over that of the `reference_build`
    measured beside it; `ratio_low` and `ratio_high` are the quartiles of that ratio. `noise` is the
    interquartile range of the block medians over their median: above 0.1 the machine was too busy to rank builds
    that lie closer together than that.
    """

    batch: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    rows_per_s: float
    calls: int
    noise: float
    reference_build: str = ""
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0


@dataclass(frozen=True)
class Lanes:
    """What `count` sessions of a build get done side by side, one call of `batch` rows at a time in each.

    `p50_ms` and `p99_ms` are of one call while all lanes are busy; `rows_per_s` is of all of them together. `gain` is
    the median, over interleaved blocks, of their calls per second over those of `reference_build` called again and
    again; `gain_low` and `gain_high` are its quartiles.
    """

    count: int
    batch: int
    p50_ms: float
    p99_ms: float
    rows_per_s: float
    calls: int
    reference_build: str
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class Placement:
    """Where the engine itself says that each node ran.

    `nodes` counts the nodes of the graph as the engine executes it, after its own fusions, by execution unit;
    `kernels` counts them by kernel or instruction set where the engine tells. `fallback_share` is the share of
    nodes that are not on the unit that was asked for. `source` names the interface that said so.
    """

    asked: str
    nodes: Mapping[str, int]
    fallback_share: float
    source: str
    kernels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """The evidence for one build on one device at one time.

    `build` is the build's id, `inputs_digest` the digest of everything that was measured with: variant graph,
    golden set, evaluation data and settings. `versions` names engine, driver, Python and Tilth.
    `peak_memory_bytes` is the high-water mark of the measuring process, `load_memory_bytes` how much of it came
    with the model, `load_ms` how long loading took. `agrees` and `reasons` are the verdict against `tolerance`.
    `lanes` is what sessions of it get done side by side, where that was measured.
    """

    build: str
    device: Device
    agreement: Agreement
    agrees: bool
    tolerance: str
    timings: tuple[Timing, ...]
    placement: Placement
    peak_memory_bytes: int
    load_memory_bytes: int
    load_ms: float
    versions: Mapping[str, str]
    inputs_digest: str
    measured_at: str
    reasons: tuple[str, ...] = ()
    task: Task | None = None
    lanes: Lanes | None = None
