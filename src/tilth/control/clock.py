"""Times: whole microseconds since 1970 in UTC inside, ISO 8601 outside."""

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """Return the time."""
    return time.time_ns() // 1000


def iso(at_us: int) -> str:
    """Return a time as `2026-11-27T08:30:00.000000Z`."""
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def iso_or_none(at_us: int | None) -> str | None:
    """Return a time in the same form, None for none."""
    return None if at_us is None else iso(at_us)
