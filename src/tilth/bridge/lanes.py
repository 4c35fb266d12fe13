"""Whether calls side by side, each on its share of the cores, get more done than one after the other on all of them.

A build that uses all cores for one call makes its threads wait for one another at every operator. Several calls that
have fewer threads each do not; every one of them takes longer, and together they may take less. How much that is
differs from graph to graph and from chip to chip, so that it is measured: a *lane* is one of the sessions that run side
by side.
"""

import time
from statistics import median

from tilth.bridge.measure.arena import Arena, Contender
from tilth.bridge.measure.timing import quantile
from tilth.core.build import Build
from tilth.core.certificate import Lanes
from tilth.core.device import Device
from tilth.ports.engine import Engine, SetsThreads

#: Every lane holds the weights once more.
MOST_LANES = 4
#: A call that is over sooner is not worth a lane of its own.
LEAST_MS = 1.0
#: Below this gain, or where a quarter of the blocks showed none, lanes are not worth their memory.
_PAYS = 1.02
_CYCLES = 5
#: Calls of each lane in a block, at the least and at the most.
_FEWEST_CALLS, _MOST_CALLS = 3, 50
_WAITS = 2.0


def divided(build: Build, p50_ms: float, device: Device, engine: Engine) -> tuple[Build, int] | None:
    """Return the build that lanes of a build run, and how many lanes there are; None when there can be but one."""
    if device.cores < 2 or p50_ms < LEAST_MS or not isinstance(engine, SetsThreads):
        return None
    threads = build.settings.get("threads")
    if isinstance(threads, int) and 0 < threads < device.cores:
        count = min(MOST_LANES, device.cores // threads)
        return (build, count) if count > 1 else None
    count = min(MOST_LANES, device.cores)
    return engine.on_threads(build, device.cores // count), count


def before_s(chosen: Contender, count: int, p50_ms: float, rows: int) -> float:
    """Return about how long it takes to load the lanes, and to compare their answers to `rows` rows."""
    return ((count + 1) * chosen.load_ms + (rows + count) * count * p50_ms) / 1e3


def block_s(left_s: float, call_ms: float) -> float:
    """Return how long a block may be when all of them have `left_s`, 0 when that is too short to tell anything."""
    seconds = min(left_s / (2 * _CYCLES), _MOST_CALLS * call_ms / 1e3)
    return seconds if seconds >= _FEWEST_CALLS * call_ms / 1e3 else 0.0


def measure(
    arena: Arena, chosen: Contender, lane: Contender, count: int, inputs: str, batch: int, seconds: float
) -> Lanes:
    """Return what `count` lanes get done, in blocks of `seconds` that take turns with blocks of the chosen build.

    Raises:
        WorkerFailed: one of them crashed, hung or outgrew its memory.
    """
    beside = [chosen.id, lane.id]
    limit_s = arena.limits.call_s + seconds
    patient = time.monotonic() + _WAITS * _CYCLES * seconds
    arena.ready(lane, beside).call("widen", arena.limits.load_s, count=count)
    gains: list[float] = []
    calls: list[int] = []
    rates: list[float] = []

    def block() -> tuple[float, float]:
        alone = arena.ready(chosen, beside).call("time", limit_s, inputs=inputs, seconds=seconds, most=1_000_000)
        together = arena.ready(lane, beside).call("abreast", limit_s, inputs=inputs, seconds=seconds)
        calls.extend(together["ns"])
        return len(alone["ns"]) * 1e9 / sum(alone["ns"]), float(together["calls_per_s"])

    for _ in range(_CYCLES):
        (alone, together), _ = arena.cores.with_all(block, patient)
        gains.append(together / alone)
        rates.append(together)
    gains.sort()
    calls.sort()
    return Lanes(
        count=count,
        batch=batch,
        p50_ms=round(quantile(calls, 0.5) / 1e6, 6),
        p99_ms=round(quantile(calls, 0.99) / 1e6, 6),
        rows_per_s=round(batch * median(rates), 3),
        calls=len(calls),
        reference_build=chosen.id,
        gain=round(quantile(gains, 0.5), 4),
        gain_low=round(quantile(gains, 0.25), 4),
        gain_high=round(quantile(gains, 0.75), 4),
    )


def pays(lanes: Lanes) -> bool:
    """Return whether lanes are worth having."""
    return lanes.gain >= _PAYS and lanes.gain_low > 1
