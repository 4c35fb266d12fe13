"""What requests cost and came to, counted by each worker in a mapped file of its own and summed by whoever asks.

A file is rows of 64-bit counters, one for each slot and one for requests that no unit was found for. It has one writer;
what a killed one counted stays, and the next one goes on with it.
"""

import mmap
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.disk import clear_errors, put, sibling
from tilth.ports.arrays import Array

MOST_UNITS = 512
#: The slot of requests that no unit was found for; only `failed` counts in it.
NO_UNIT = MOST_UNITS
REASONS = ("invalid", "overload", "deadline", "engine", "missing", "cancelled")
LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = tuple(1 << power for power in range(11))

_LATENCY_NS = tuple(round(bound * 1e9) for bound in LATENCY_S)
_ROWS, _QUEUE_NS, _COMPUTE_NS, _TOTAL_NS, _LAST_MS, _RUNNING, _RUN_ROWS, _FAILED_NS = range(8)
_FAILED, _LATENCY = 8, 8 + len(REASONS)
_BATCH = _LATENCY + len(LATENCY_S) + 1
_BATCH_NS, _END = (_BATCH + times * (len(BATCHES) + 1) for times in (1, 2))
FIELDS = 64
FILE_BYTES = (MOST_UNITS + 1) * FIELDS * 8
_ZEROS = memoryview(bytes(FIELDS * 8)).cast("Q")


@dataclass(frozen=True)
class Unit:
    """A loaded build of a model version and the slot that it counts in; `fallback_share` is 0 to 1."""

    slot: int
    model: str
    version: str
    build: str
    fallback_share: float


class Meter:
    """Counts into the file at `path`, which it makes or goes on with; requests in progress start at 0.

    One meter writes a file at any time, from one thread. Slots are 0 to `MOST_UNITS` - 1 and numbers are not negative;
    neither is checked.

    Raises:
        MissingError: the folder above `path` is not there.
        UnavailableError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        with clear_errors(path, FILE_BYTES):
            self._map = _mapped(path)
        self._view = memoryview(self._map).cast("Q")
        for slot in range(MOST_UNITS + 1):
            self._view[slot * FIELDS + _RUNNING] = 0

    def begin(self, slot: int) -> None:
        """Note that a request is in progress."""
        self._view[slot * FIELDS + _RUNNING] += 1

    def end(self, slot: int) -> None:
        """Note that a request that was begun is over, whatever came of it."""
        at = slot * FIELDS + _RUNNING
        # A slot may be cleared while a request is in progress, and counters have no sign.
        self._view[at] = (self._view[at] or 1) - 1

    def done(self, slot: int, rows: int, queue_ns: int, compute_ns: int, total_ns: int) -> None:
        """Count a request that was answered."""
        view, at = self._view, slot * FIELDS
        view[at] += rows
        view[at + _QUEUE_NS] += queue_ns
        view[at + _COMPUTE_NS] += compute_ns
        view[at + _TOTAL_NS] += total_ns
        view[at + _LAST_MS] = time.time_ns() // 1_000_000
        view[at + _LATENCY + bisect_left(_LATENCY_NS, total_ns)] += 1

    def done_now(self, slot: int, rows: int, ns: int) -> None:
        """Count a request that was answered by one run of the engine, with no queue before it."""
        self.done(slot, rows, 0, ns, ns)
        self.executed(slot, rows, ns)

    def executed(self, slot: int, rows: int, ns: int) -> None:
        """Count one run of a batch of `rows` by the engine, which took `ns`."""
        view, at = self._view, slot * FIELDS
        bucket = bisect_left(BATCHES, rows)
        view[at + _RUN_ROWS] += rows
        view[at + _BATCH_NS + bucket] += ns
        view[at + _BATCH + bucket] += 1

    def failed(self, slot: int, reason: str, total_ns: int = 0) -> None:
        """Count a request that got no result, for one of `REASONS`; the slot may be `NO_UNIT`.

        Raises:
            ValueError: `reason` is another one.
        """
        at = slot * FIELDS
        self._view[at + _FAILED + REASONS.index(reason)] += 1
        self._view[at + _FAILED_NS] += total_ns

    def clear(self, slot: int) -> None:
        """Empty a slot for its next unit; failures move to `NO_UNIT`, so that their total never falls."""
        at, rest = slot * FIELDS, NO_UNIT * FIELDS
        for field in range(_FAILED_NS, _LATENCY):
            self._view[rest + field] += self._view[at + field]
        self._view[at : at + FIELDS] = _ZEROS

    def close(self) -> None:
        """Give the file back; what was counted stays in it."""
        self._view.release()
        self._map.close()


def _mapped(path: Path) -> mmap.mmap:
    if not path.exists() or path.lstat().st_size != FILE_BYTES:
        with sibling(path, folder=False) as made:
            # Zeros rather than a hole: a full disk would be a SIGBUS while counting. And a new file rather than another
            # size: one that a process has mapped must not shrink.
            made.write_bytes(bytes(FILE_BYTES))
            put(made, path)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), FILE_BYTES)


@dataclass(frozen=True)
class Totals:
    """The sums of files: `rows` has the shape (MOST_UNITS + 1, FIELDS)."""

    rows: Array

    def of(self, slots: Iterable[int]) -> list[int]:
        """Return the fields of slots together."""
        rows = self.rows[list(slots)]
        sums: list[int] = rows.sum(axis=0).tolist()
        sums[_LAST_MS] = int(rows[:, _LAST_MS].max(initial=0))
        return sums


def read_all(paths: Iterable[Path]) -> Totals:
    """Return the sums of files; one that is not there or has another size is left out."""
    found = [np.zeros((MOST_UNITS + 1, FIELDS), np.uint64)]
    for path in paths:
        with suppress(OSError):
            # Read, not mapped: to touch a map of a file that somebody cuts short would be a SIGBUS.
            data = path.read_bytes() if path.stat().st_size == FILE_BYTES else b""
            if len(data) == FILE_BYTES:
                found.append(np.frombuffer(data, np.uint64).reshape(found[0].shape))
    files = np.stack(found)
    sums = files.sum(axis=0)
    sums[:, _LAST_MS] = files[:, :, _LAST_MS].max(axis=0)
    return Totals(sums)


def prometheus(units: Sequence[Unit], totals: Totals, gauges: Mapping[str, Mapping[int, float]]) -> str:
    """Return all metrics in Prometheus' text format 0.0.4.

    `gauges` are numbers by name and slot that nobody counts; a gauge `x` becomes `tilth_x`. Units with the same labels
    are one row: all is summed but `tilth_fallback_share`, of which the largest stands.
    """
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        pairs = (("model", unit.model), ("version", unit.version), ("build", unit.build))
        groups.setdefault(",".join(f'{name}="{_escaped(value)}"' for name, value in pairs), []).append(unit)
    metrics: dict[str, list[str]] = {name: [] for name in (*_HELP, *gauges)}
    for labels, group in groups.items():
        row = totals.of(unit.slot for unit in group)
        outcomes = zip(("success", *REASONS), (sum(row[_LATENCY:_BATCH]), *row[_FAILED:_LATENCY]), strict=True)
        metrics["requests_total"] += [f'{{{labels},outcome="{outcome}"}} {count}' for outcome, count in outcomes]
        metrics["request_seconds"] += _histogram(labels, LATENCY_S, row[_LATENCY:_BATCH], row[_TOTAL_NS] / 1e9)
        metrics["batch_rows"] += _histogram(labels, BATCHES, row[_BATCH:_BATCH_NS], row[_RUN_ROWS])
        share = max(unit.fallback_share for unit in group)
        numbers = (row[_ROWS], row[_QUEUE_NS] / 1e9, row[_COMPUTE_NS] / 1e9, row[_RUNNING], share)
        for name, number in zip(_PLAIN, (sum(row[_BATCH:_BATCH_NS]), *numbers), strict=True):
            metrics[name].append(f"{{{labels}}} {number}")
        for name, known in gauges.items():
            found = [known[unit.slot] for unit in group if unit.slot in known]
            metrics[name] += [f"{{{labels}}} {sum(found)}"] if found else []
    refused = totals.of(range(MOST_UNITS + 1))[_FAILED:_LATENCY]
    metrics["refused_total"] = [f'{{reason="{name}"}} {count}' for name, count in zip(REASONS, refused, strict=True)]
    return "".join(_family(name, samples) for name, samples in metrics.items() if samples)


_HELP = {
    "requests_total": ("counter", "Requests by what came of them."),
    "refused_total": ("counter", "Requests that got no result, with those for which no model was found."),
    "request_seconds": ("histogram", "Time of answered requests."),
    "batch_rows": ("histogram", "Rows of each batch that the engine ran."),
    "executions_total": ("counter", "Batches that the engine ran."),
    "rows_total": ("counter", "Rows of answered requests."),
    "queue_seconds_total": ("counter", "Time that answered requests waited for the engine."),
    "compute_seconds_total": ("counter", "Time that the engine took for answered requests."),
    "requests_in_progress": ("gauge", "Requests that are in progress."),
    "fallback_share": ("gauge", "Share of nodes that are not on the unit that was asked for, as certified."),
    "memory_bytes": ("gauge", "Memory of the processes that the build runs in."),
}
#: The metrics of one number for each unit.
_PLAIN = tuple(_HELP)[4:10]


def _family(name: str, samples: Sequence[str]) -> str:
    kind, words = _HELP.get(name, ("gauge", f"{name.replace('_', ' ').capitalize()}."))
    lines = (f"tilth_{name}{sample}" for sample in samples)
    return "\n".join((f"# HELP tilth_{name} {words}", f"# TYPE tilth_{name} {kind}", *lines, ""))


def _histogram(labels: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> list[str]:
    ends, sums = [f"{bound:g}" for bound in bounds] + ["+Inf"], list(accumulate(counts))
    buckets = [f'_bucket{{{labels},le="{end}"}} {count}' for end, count in zip(ends, sums, strict=True)]
    return [*buckets, f"_sum{{{labels}}} {total}", f"_count{{{labels}}} {sums[-1]}"]


def _escaped(value: str) -> str:
    return value.encode(errors="replace").decode().replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def statistics(units: Sequence[Unit], totals: Totals) -> dict[str, Any]:
    """Return the JSON of the statistics extension of the protocol, one entry for each unit.

    Copies to and from the engine are not measured and nothing is cached: their counts and times are 0. A `batch_size`
    stands for the sizes above the half of it, and 2048 for all above 1024.
    """
    return {"model_stats": [_unit_statistics(unit, totals.of([unit.slot])) for unit in units]}


def _unit_statistics(unit: Unit, row: Sequence[int]) -> dict[str, Any]:
    count, unmeasured = sum(row[_LATENCY:_BATCH]), {"count": 0, "ns": 0}
    stats = dict.fromkeys(("compute_input", "compute_output", "cache_hit", "cache_miss"), unmeasured)
    stats["success"] = {"count": count, "ns": row[_TOTAL_NS]}
    stats["fail"] = {"count": sum(row[_FAILED:_LATENCY]), "ns": row[_FAILED_NS]}
    stats["queue"] = {"count": count, "ns": row[_QUEUE_NS]}
    stats["compute_infer"] = {"count": count, "ns": row[_COMPUTE_NS]}
    sizes = zip((*BATCHES, 2 * BATCHES[-1]), row[_BATCH:_BATCH_NS], row[_BATCH_NS:_END], strict=True)
    copies = {"compute_input": unmeasured, "compute_output": unmeasured}
    return {
        "name": unit.model,
        "version": unit.version,
        "last_inference": row[_LAST_MS],
        "inference_count": row[_ROWS],
        "execution_count": sum(row[_BATCH:_BATCH_NS]),
        "inference_stats": stats,
        "batch_stats": [
            {"batch_size": s, **copies, "compute_infer": {"count": n, "ns": ns}} for s, n, ns in sizes if n
        ],
    }
