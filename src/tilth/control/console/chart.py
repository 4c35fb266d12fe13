"""Charts as geometry: where lines, marks and labels lie, in percent of the drawing; templates turn it into SVG. Pure.

Labels are placed in percent too, so that a drawing can be as wide as there is room and its text keeps its size.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Series have colours by version number, so that a version keeps its own; there are that many colours.
COLOURS = 8
_TOP, _BOTTOM = 10.0, 88.0
_LEFT, _RIGHT = 9.0, 94.0
_STEPS = (1, 2, 2.5, 5, 10)
#: How large the drawing of builds is taken to be, to keep numbers apart; it is drawn as wide as there is room.
_WIDTH, _HEIGHT, _ROOMY = 420.0, 250.0, 8.0
#: Marks on a scale that grows tenfold.
_FEW = 7

#: Seconds, or anything that grows, and a value, None where there is none.
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Label:
    """A text at a place, in percent."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series: its path in a drawing of 1000 x 100, and the place of its last point."""

    name: str
    colour: int
    path: str
    newest: float | None


@dataclass(frozen=True)
class LineChart:
    """Lines over time. `told` is what a script needs to tell the values under a pointer, as JSON."""

    lines: Sequence[Line]
    rows: Sequence[Label]
    columns: Sequence[Label]
    told: str
    top: float

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(line.path for line in self.lines)


def colour(version: str) -> int:
    """Return the number of a version's colour, from 1."""
    return (int(version) - 1) % COLOURS + 1 if version.isdecimal() else 1


def lines(series: Mapping[str, Sequence[Point]], span_s: float, unit: str = "", least: float = 1.0) -> LineChart:
    """Return a chart of series by name over the last `span_s` seconds, times counted back from 0.

    The scale begins at 0 and ends at a round number, not below `least`, so that nothing is drawn large.
    """
    values = [value for points in series.values() for _, value in points if value is not None]
    top, step = ceiling(max([least, *values]))
    drawn = [Line(name, colour(name), _path(points, span_s, top), _newest(points)) for name, points in series.items()]
    count = round(top / step)
    rows = [Label(_percent_of(number * step, top), _tick(number * step, unit)) for number in range(count + 1)]
    columns = [Label(0, _span(span_s)), Label(100, "now")]
    told = {
        "span": span_s,
        "unit": unit,
        "series": [
            {"name": name, "colour": colour(name), "points": [[round(t, 1), v] for t, v in points]}
            for name, points in series.items()
        ],
    }
    return LineChart(drawn, rows, columns, json.dumps(told, separators=(",", ":")), top)


def spark(points: Sequence[Point], span_s: float) -> str:
    """Return one small line as a path in a drawing of 1000 x 100."""
    top = max([value for _, value in points if value is not None], default=0.0)
    return _path(points, span_s, top or 1.0)


def ceiling(most: float) -> tuple[float, float]:
    """Return a round number not below `most`, and the step by which a scale of two to five steps gets there."""
    raw = most / 3
    power = 10 ** math.floor(math.log10(raw))
    step = next(one * power for one in _STEPS if one * power >= raw * 0.999)
    return step * math.ceil(most / step - 1e-9), step


def _percent_of(value: float, top: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * value / top, 2)


def _path(points: Sequence[Point], span_s: float, top: float) -> str:
    """Return line segments; a gap where there is no value."""
    parts, pen = [], False
    for seconds, value in points:
        if value is None or seconds < -span_s:
            pen = False
            continue
        across = 1000 * (1 + seconds / span_s)
        down = _percent_of(min(value, top), top)
        parts.append(f"{'L' if pen else 'M'}{across:.1f} {down:.2f}")
        pen = True
    return "".join(parts)


def _newest(points: Sequence[Point]) -> float | None:
    return points[-1][1] if points else None


def _tick(value: float, unit: str) -> str:
    text = f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{text}{unit}" if unit.startswith("/") else f"{text} {unit}".strip()


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min ago" if seconds >= 60 else f"{seconds:g} s ago"


# -- builds by latency and error

#: Where the middle of a number of one or two digits lies from its anchor, in pixels.
_RING, _DOT = 12.0, 6.0
#: A mark or a number: where its middle is, and how far it reaches.
Round = tuple[float, float, float]
_MIDDLE = {"start": 5.0, "middle": 0.0, "end": -5.0}


@dataclass(frozen=True)
class Place:
    """Where a mark's number stands beside it: an anchor, and steps to the right and down in pixels."""

    anchor: str
    dx: int
    dy: int


_PLACES = (
    Place("start", 11, 4),
    Place("end", -11, 4),
    Place("middle", 0, -11),
    Place("middle", 0, 19),
    Place("start", 9, -9),
    Place("end", -9, -9),
    Place("start", 9, 17),
    Place("end", -9, 17),
)


@dataclass(frozen=True)
class Mark:
    """A build in the drawing. `x` and `y` are in percent; `number` is its row in the table beside."""

    number: int
    x: float
    y: float
    agrees: bool
    wins: Sequence[str]
    told: str
    name: Place


@dataclass(frozen=True)
class Scatter:
    """Builds by latency, to the right, and error, upwards; both axes grow tenfold from line to line."""

    marks: Sequence[Mark]
    rows: Sequence[Label]
    columns: Sequence[Label]


@dataclass(frozen=True)
class Measured:
    """What of a build goes into the drawing: latency in ms, an error from 0, and words for a reader of screens."""

    number: int
    latency_ms: float
    error: float
    agrees: bool
    wins: Sequence[str] = field(default=())
    told: str = ""


def scatter(builds: Sequence[Measured], x_words: Mapping[float, str], y_words: Mapping[float, str]) -> Scatter:
    """Return the drawing of builds; the words are the labels that `decades` asked for, by value."""
    across = _Log(list(x_words), _LEFT, _RIGHT)
    up = _Log(list(y_words), _BOTTOM - 4, _TOP + 2)
    marks: list[Mark] = []
    # The best are drawn last, above the others, and choose first where their numbers stand.
    places = [(across.place(one.latency_ms), up.place(one.error)) for one in builds]
    taken = [(*_pixels(*place), _RING if one.wins else _DOT) for one, place in zip(builds, places, strict=True)]
    for one, (x, y) in sorted(zip(builds, places, strict=True), key=lambda pair: not pair[0].wins):
        name = _room(x, y, taken, bool(one.wins))
        marks.append(Mark(one.number, x, y, one.agrees, one.wins, one.told, name))
    return Scatter(
        sorted(marks, key=lambda mark: (bool(mark.wins), mark.agrees)),
        [Label(up.place(value), text) for value, text in y_words.items()],
        [Label(across.place(value), text) for value, text in x_words.items()],
    )


def decades(values: Sequence[float]) -> list[float]:
    """Return the marks of a scale around values above 0: 1, 2, 5, 10 where these are few enough, else tenfold steps."""
    seen = [value for value in values if value > 0]
    if not seen:
        return [1e-9, 1e-8]
    low, high = min(seen) * 0.9, max(seen) * 1.1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [base * 10.0**power for power in powers for base in (1, 2, 5)]
    inside = [one for one in fine if low < one < high]
    around = [max(one for one in fine if one <= low), *inside, min(one for one in fine if one >= high)]
    if len(around) <= _FEW:
        return around
    stride = max(1, math.ceil((len(powers) - 1) / (_FEW - 2)))
    coarse = [10.0**power for power in powers[::stride]]
    return coarse if coarse[-1] >= high else [*coarse, coarse[-1] * 10.0**stride]


class _Log:
    """A scale that grows tenfold; what is 0 or below its first mark lies at the start."""

    def __init__(self, marks: Sequence[float], start: float, end: float) -> None:
        self._low, self._high = math.log10(min(marks)), math.log10(max(marks))
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        """Return where a value lies, in percent."""
        at = math.log10(value) if value > 0 else self._low
        share = (min(max(at, self._low), self._high) - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)


def _room(x: float, y: float, taken: list[Round], ringed: bool) -> Place:
    """Return where a number stands so that it covers no mark and no other number, and take that place."""
    across, down = _pixels(x, y)
    best, free = _PLACES[0], -1.0
    more = 4 if ringed else 0
    for near in _PLACES:
        place = Place(near.anchor, near.dx + more * _sign(near.dx), near.dy + (more * _sign(near.dy - 4)))
        middle = (across + _MIDDLE[place.anchor] + place.dx, down + place.dy - 4)
        if not 0 < middle[0] < _WIDTH:
            continue
        others = (math.hypot(middle[0] - a, middle[1] - b) - r for a, b, r in taken if (a, b) != (across, down))
        room = min(others, default=_WIDTH)
        if room > free + 1:
            best, free = place, room
        if free > _ROOMY:
            break
    taken.append((across + _MIDDLE[best.anchor] + best.dx, down + best.dy - 4, _DOT))
    return best


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _pixels(x: float, y: float) -> tuple[float, float]:
    return x * _WIDTH / 100, y * _HEIGHT / 100
