"""From a server's counters to what an endpoint does: requests and errors per second, and percentiles; pure."""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tilth.client.shapes.endpoint import Usage, UsagePoint
from tilth.control.clock import iso

#: How many looks are kept for each endpoint, and over how many of them rates are taken.
KEPT, SPAN = 150, 5
_LINE = re.compile(r"tilth_(requests_total|request_seconds_bucket)\{(.*)\} ([0-9.e+]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class Counters:
    """What was counted of one version since its server started. `buckets` are cumulative counts by upper end in s."""

    requests: int = 0
    errors: int = 0
    buckets: dict[float, int] = field(default_factory=dict)


Counted = dict[str, dict[str, Counters]]


def parsed(text: str) -> Counted:
    """Return the counters in a server's metrics, by model and version; builds of one version are added up."""
    made: Counted = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        labels = dict(_LABEL.findall(found[2]))
        counters = made.setdefault(labels["model"], {}).setdefault(labels["version"], Counters())
        value = round(float(found[3]))
        if found[1] == "requests_total":
            counters.requests += value
            counters.errors += value if labels["outcome"] != "success" else 0
        else:
            end = float(labels["le"])
            counters.buckets[end] = counters.buckets.get(end, 0) + value
    return made


def usage(version: str, before: Counters, after: Counters, over_s: float) -> Usage:
    """Return what happened between two looks; counters that went back belong to a server that was started anew."""
    if after.requests < before.requests:
        before = Counters()
    counts = {end: count - before.buckets.get(end, 0) for end, count in after.buckets.items()}
    return Usage(
        version=version,
        requests_per_s=round((after.requests - before.requests) / over_s, 3),
        errors_per_s=round(max(0, after.errors - before.errors) / over_s, 3),
        p50_ms=percentile_ms(counts, 0.50),
        p95_ms=percentile_ms(counts, 0.95),
        p99_ms=percentile_ms(counts, 0.99),
        requests=after.requests,
        errors=after.errors,
    )


def percentile_ms(cumulative: Mapping[float, int], share: float) -> float | None:
    """Return a percentile in ms out of cumulative counts by upper end in s, linear within a bucket; None of nothing."""
    ends = sorted(cumulative)
    total = cumulative[ends[-1]] if ends else 0
    if total <= 0:
        return None
    wanted = share * total
    at = bisect_left([cumulative[end] for end in ends], wanted)
    low = ends[at - 1] if at else 0.0
    if ends[at] == float("inf"):
        return round(low * 1e3, 4)
    below = cumulative[ends[at - 1]] if at else 0
    inside = cumulative[ends[at]] - below
    return round((low + (ends[at] - low) * ((wanted - below) / inside if inside else 1.0)) * 1e3, 4)


class History:
    """The last looks at a server's counters."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Counted]] = deque(maxlen=SPAN + 1)
        self._points: dict[str, deque[UsagePoint]] = {}

    def add(self, at_us: int, counted: Counted) -> None:
        """Take a look, at a time in microseconds."""
        self._looks.append((at_us, counted))
        since_us, before = self._looks[0]
        over_s = (at_us - since_us) / 1e6
        for model in self._points.keys() - counted.keys():
            del self._points[model]
        if over_s <= 0:
            return
        for model, versions in counted.items():
            old = before.get(model, {})
            told = [usage(one, old.get(one, Counters()), now, over_s) for one, now in versions.items()]
            points = self._points.setdefault(model, deque(maxlen=KEPT))
            points.append(UsagePoint(at=iso(at_us), versions=sorted(told, key=lambda one: one.version)))

    def of(self, model: str) -> list[UsagePoint]:
        """Return the points of a served name, oldest first."""
        return list(self._points.get(model, ()))
