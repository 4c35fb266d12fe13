"""Every change as an event in a chain: each holds the hash of the one before, so that none can be altered unseen.

The hash of an event is the SHA-256 of its fields and of the hash before it, as canonical JSON. Whoever can write to the
database can make a new chain, and cannot make one that ends in a hash that somebody noted elsewhere.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from tilth.control.store.tables import chain, events
from tilth.core.digest import canonical_json, digest
from tilth.core.errors import UntrustedError

#: What stands before the first event.
ORIGIN = "0" * 64
#: Events that are read at a time.
PAGE = 1000


_END = sa.select(chain.c.seq, chain.c.hash).with_for_update()


@dataclass(frozen=True)
class Event:
    """Who did what to what. `seq` counts from 1 without gaps; `at_us` is microseconds since 1970, in UTC."""

    actor: str
    action: str
    subject: str
    project_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0
    at_us: int = 0
    hash: str = ""


def append(connection: sa.Connection, *made: Event) -> list[Event]:
    """Add events to the chain, in the transaction of what they tell of; return them with number, time and hash."""
    # On PostgreSQL the row is locked until the transaction ends: the chain has one end.
    seq, before = connection.execute(_END).one()
    linked = []
    for event in made:
        seq += 1
        at_us = event.at_us or time.time_ns() // 1000
        numbered = replace(event, seq=seq, at_us=at_us, hash="")
        before = _hash(numbered, before)
        linked.append(replace(numbered, hash=before))
    connection.execute(events.insert(), [asdict(event) for event in linked])
    connection.execute(chain.update().values(seq=seq, hash=before))
    return linked


def read(
    connection: sa.Connection, after: int = 0, most: int = PAGE, *, project_id: str | None = None, newest: bool = False
) -> list[Event]:
    """Return at most so many events behind number `after` in order, of a project where one is named.

    With `newest` they come in the other order, and those before `after`; 0 is the end then.
    """
    query = sa.select(events)
    if project_id is not None:
        query = query.where(events.c.project_id == project_id)
    if not newest:
        query = query.where(events.c.seq > after).order_by(events.c.seq)
    else:
        query = (query.where(events.c.seq < after) if after else query).order_by(events.c.seq.desc())
    return [Event(**row) for row in connection.execute(query.limit(most)).mappings()]


def walk(connection: sa.Connection) -> Iterator[Event]:
    """Yield all events in order, a page at a time."""
    after = 0
    while page := read(connection, after):
        yield from page
        after = page[-1].seq


def check(found: Iterable[Event], end: str = "") -> str:
    """Return the hash of the last event of a whole chain.

    Raises:
        UntrustedError: an event was altered, taken out or put in, or the chain does not end with the hash `end`.
    """
    before, last = ORIGIN, 0
    for event in found:
        if event.seq != last + 1 or event.hash != _hash(event, before):
            raise UntrustedError(
                f"event {event.seq} of the audit log is not what was written",
                why=f"it follows event {last}" if event.seq != last + 1 else "its hash is that of other content",
                hint="restore a backup, and find out who could write to the store",
            )
        before, last = event.hash, event.seq
    if end and before != end:
        raise UntrustedError(
            "the audit log does not end where it should",
            why=f"event {last} has hash {before[:12]}, and {end[:12]} was noted",
            hint="events at its end were taken away or exchanged; restore a backup",
        )
    return before


def check_all(connection: sa.Connection, count: int, end_hash: str) -> None:
    """Return when the store holds a whole chain whose event `count` has a hash; `end` returned the two.

    What others add meanwhile is no fault, and is checked the next time.

    Raises:
        UntrustedError: as `check`, or there are events behind the end.
    """
    check(itertools.islice(walk(connection), count), end_hash)
    newest = read(connection, 0, 1, newest=True)
    if newest and newest[0].seq > end(connection)[0]:
        raise UntrustedError(
            "the audit log does not end where it should",
            why=f"event {newest[0].seq} is behind its end",
            hint="restore a backup, and find out who could write to the store",
        )


def end(connection: sa.Connection) -> tuple[int, str]:
    """Return number and hash of the newest event; 0 and `ORIGIN` when there is none."""
    seq, found = connection.execute(sa.select(chain.c.seq, chain.c.hash)).one()
    return int(seq), str(found)


def _hash(event: Event, before: str) -> str:
    fields = {name: value for name, value in asdict(event).items() if name != "hash"}
    return digest(canonical_json(fields | {"before": before}))
