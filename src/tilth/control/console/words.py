"""Numbers, times and texts as people read them; pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from tilth.control.console.proof import ROOT

#: Characters that are not seen, or that change the order of those around them: they are spelled out.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_STEPS = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (14 * 86400, 86400, "days"))
NONE = "\N{EN DASH}"


def at(*parts: object, **query: object) -> str:
    """Return the address of a page: every part is quoted whole, empty values of the query are left out."""
    path = "/".join([ROOT, *(quote(str(part), safe="") for part in parts)])
    kept = {name: value for name, value in query.items() if value not in ("", None)}
    return f"{path}?{urlencode(kept)}" if kept else path


def plain(value: object) -> str:
    """Return a text from outside with every character seen: what hides or reorders is written as its number."""
    return _HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", str(value))


def short(value: object, most: int = 80) -> str:
    """Return the beginning of a text on one line."""
    text = " ".join(plain(value).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def digits(value: float, most: int = 3) -> str:
    """Return a number with so many digits that mean something, and no exponent: 0.0084, 12.3, 1,235."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10 ** (most - 1):
        return f"{value:,.0f}"
    places = most - 1
    while size < 1:
        size *= 10
        places += 1
    while size >= 10:
        size /= 10
        places -= 1
    text = f"{value:,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ms(value: float | None) -> str:
    """Return a duration given in milliseconds, with its unit."""
    if value is None:
        return NONE
    if value < 0.1:
        return f"{digits(value * 1e3)} \N{MICRO SIGN}s"
    return f"{digits(value)} ms" if value < 10_000 else f"{digits(value / 1e3)} s"


def rate(value: float | None) -> str:
    """Return something per second."""
    return NONE if value is None else f"{_rounded(value)}/s"


def _rounded(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 100 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Return percents."""
    return NONE if value is None else f"{value:.3f}".rstrip("0").rstrip(".") + " %"


def size(value: float | None) -> str:
    """Return bytes in units of 1,000."""
    if value is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{digits(value)} {unit}"
        value /= 1000
    return NONE


def count(value: float | None, one: str = "", many: str = "") -> str:
    """Return a whole number with commas, and the noun for it where one is given."""
    if value is None:
        return NONE
    noun = one if value == 1 else many or f"{one}s"
    return f"{value:,.0f} {noun}" if one else f"{value:,.0f}"


def small(value: float | None) -> str:
    """Return an error measure, which spans many orders: 0, 0.0083, 1.3e-7."""
    if value is None:
        return NONE
    if value >= 1e300:
        return "infinite"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return digits(value)
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e+")


def moment(iso: str | None) -> datetime | None:
    """Return a time of the API, None for none or for what is no time."""
    try:
        found = datetime.fromisoformat(iso) if iso else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)


def utc(iso: str | None) -> str:
    """Return a time of the API as `2026-11-27 08:30:00 UTC`."""
    found = moment(iso)
    return NONE if found is None else found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(iso: str | None, now: datetime | None = None) -> str:
    """Return how long ago a time of the API was, or the day when that is long."""
    found = moment(iso)
    if found is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - found).total_seconds()
    if seconds < 0:
        return _ahead(-seconds, found)
    if seconds < 5:
        return "just now"
    for below, unit, name in _STEPS:
        if seconds < below:
            number = int(seconds // unit)
            return f"{number} {'day' if name == 'days' and number == 1 else name} ago"
    return found.astimezone(UTC).strftime("%Y-%m-%d")


def _ahead(seconds: float, found: datetime) -> str:
    for below, unit, name in _STEPS:
        if seconds < below:
            return f"in {max(1, int(seconds // unit))} {name}"
    return found.astimezone(UTC).strftime("%Y-%m-%d")


def shape(spec: Mapping[str, Any]) -> str:
    """Return a tensor as `float32 [B, 64]`."""
    sizes = spec.get("shape")
    inside = "any shape" if sizes is None else f"[{', '.join(str(one) for one in sizes)}]"
    return f"{spec.get('dtype', '?')} {inside}"
