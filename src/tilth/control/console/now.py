"""What an endpoint does at present, version by version: what is wanted beside what is, and the last minutes; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tilth.client.shapes.endpoint import Endpoint, Usage, UsagePoint
from tilth.control.console.chart import LineChart, Point, colour, lines, spark
from tilth.control.console.words import moment

#: The minutes that charts show.
SPAN_S = 150.0
#: Figures older than this say nothing about the present.
_FRESH_S = 10.0


@dataclass(frozen=True)
class Slice:
    """A version's part of the traffic, in percent; `start` is where it begins in a bar of all of them."""

    version: str
    colour: int
    percent: float
    start: float


@dataclass(frozen=True)
class VersionNow:
    """A version that is wanted at an endpoint, or that answers there."""

    number: str
    colour: int
    wanted: float
    wanted_shadow: float
    traffic: float
    shadow: float
    state: str
    reason: str
    build: str
    usage: Usage | None


@dataclass(frozen=True)
class Now:
    """An endpoint with its latest figures, None where there are none."""

    endpoint: Endpoint
    versions: Sequence[VersionNow]
    slices: Sequence[Slice]
    requests_per_s: float | None
    errors_per_s: float | None
    p95_ms: float | None
    spark: str

    @property
    def state(self) -> str:
        """One word."""
        standing = self.endpoint.standing
        if standing is None:
            return "empty" if not self.endpoint.wanted.traffic else "deploying"
        return standing.state

    @property
    def message(self) -> str:
        """What is said of the state."""
        return self.endpoint.standing.message if self.endpoint.standing else ""

    @property
    def can_roll_back(self) -> bool:
        """Whether there is a deployment before the newest one."""
        return self.endpoint.deployment > 1


@dataclass(frozen=True)
class Charts:
    """The last minutes of an endpoint."""

    requests: LineChart
    errors: LineChart
    p50: LineChart
    p95: LineChart
    p99: LineChart


def now(endpoint: Endpoint, points: Sequence[UsagePoint], at: datetime | None = None) -> Now:
    """Return what an endpoint does at present."""
    at = at or datetime.now(UTC)
    found = points[-1] if points and _back(points[-1].at, at) > -_FRESH_S else None
    usage = {one.version: one for one in found.versions} if found else {}
    answering = endpoint.standing.traffic if endpoint.standing else {}
    # The slowest of those that answer: an operator wants to see the bad one.
    slow = [usage[one].p95_ms for one in answering if one in usage]
    return Now(
        endpoint,
        _versions(endpoint, usage),
        slices(answering),
        sum(one.requests_per_s for one in usage.values()) if found else None,
        sum(one.errors_per_s for one in usage.values()) if found else None,
        max((value for value in slow if value is not None), default=None),
        spark([(_back(one.at, at), sum(each.requests_per_s for each in one.versions)) for one in points], SPAN_S),
    )


def slices(shares: Mapping[str, float]) -> list[Slice]:
    """Return shares in the order of versions, one behind the other."""
    made, start = [], 0.0
    for version in sorted(shares, key=int):
        made.append(Slice(version, colour(version), round(shares[version], 3), round(start, 3)))
        start += shares[version]
    return made


def charts(endpoint: Endpoint, points: Sequence[UsagePoint], at: datetime | None = None) -> Charts:
    """Return the charts of an endpoint: a line for each version that is wanted, or that did something of late."""
    at = at or datetime.now(UTC)
    standing = endpoint.standing
    known = {*endpoint.wanted.traffic, *endpoint.wanted.shadow, *(standing.traffic if standing else ())}
    known |= {one.version for point in points for one in point.versions if one.requests_per_s}
    shown = sorted((one for one in known if one.isdecimal()), key=int)

    def series(field: str) -> dict[str, list[Point]]:
        made: dict[str, list[Point]] = {version: [] for version in shown}
        for point in points:
            by_version: dict[str, Any] = {one.version: getattr(one, field) for one in point.versions}
            for version in shown:
                made[version].append((_back(point.at, at), by_version.get(version)))
        return made

    return Charts(
        lines(series("requests_per_s"), SPAN_S, "/s"),
        lines(series("errors_per_s"), SPAN_S, "/s"),
        *(lines(series(name), SPAN_S, "ms", least=0.1) for name in ("p50_ms", "p95_ms", "p99_ms")),
    )


def _versions(endpoint: Endpoint, usage: Mapping[str, Usage]) -> list[VersionNow]:
    wanted, standing = endpoint.wanted, endpoint.standing
    traffic, shadow = (standing.traffic, standing.shadow) if standing else ({}, {})
    seen = standing.versions if standing else {}
    made = []
    for number in sorted({*wanted.traffic, *wanted.shadow, *traffic, *shadow}, key=int):
        told = seen.get(number, {})
        made.append(
            VersionNow(
                number,
                colour(number),
                wanted.traffic.get(number, 0.0),
                wanted.shadow.get(number, 0.0),
                traffic.get(number, 0.0),
                shadow.get(number, 0.0),
                str(told.get("state", "loading")),
                str(told.get("reason", "")),
                str(told.get("build", "")),
                usage.get(number),
            )
        )
    return made


def _back(iso: str, at: datetime) -> float:
    """Return seconds from now to a time, below 0."""
    found = moment(iso)
    return (found - at).total_seconds() if found else float("-inf")
