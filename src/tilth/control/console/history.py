"""Events as people read them: what was done to what, with a link where there is a page of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from tilth.control.clock import iso
from tilth.control.console.words import at, count, percent, size
from tilth.control.store.audit import Event, end
from tilth.control.store.tables import events

#: Events that are looked through for a page; further back is another page.
WINDOW: Final = 20_000
#: Parts of a subject that are pages: `project/models/name/versions/3`.
_PAGES: Final = {"models": "models", "endpoints": "endpoints"}
#: What is worth saying beside the action, in this order, and how.
_WORTH: Final[Mapping[str, Callable[[Any], str]]] = {
    "traffic": lambda value: _shares(value, ""),
    "shadow": lambda value: _shares(value, " looks on"),
    "stage": lambda value: f"into {value}",
    "number": lambda value: f"names v{value}",
    "role": lambda value: f"as {value}",
    "name": str,
    "note": lambda value: f"\N{LEFT DOUBLE QUOTATION MARK}{value}\N{RIGHT DOUBLE QUOTATION MARK}",
    "devices": lambda value: count(value, "device") if isinstance(value, int) else "",
    "size_bytes": lambda value: size(value) if isinstance(value, int) else "",
}
#: Kinds that tell of bytes on their way rather than of what somebody did.
_NOISE: Final = ("blob", "upload")
EVERYTHING: Final = "all"


@dataclass(frozen=True)
class Told:
    """An event, where a page of its subject is, and its details as text."""

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    link: str
    gist: str
    details: str
    hash: str


@dataclass(frozen=True)
class Filter:
    """Which events: of a kind, by one actor, with subjects that contain a text; empty ones are no condition.

    Without a kind, events of blobs are left out; `EVERYTHING` is the kind that has them too.
    """

    kind: str = ""
    actor: str = ""
    text: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it lets everything through."""
        return not (self.kind or self.actor or self.text)


def told(event: Event, project: str = "") -> Told:
    """Return an event as people read it; on a page of a project its subject is told without the project."""
    details = {name: value for name, value in event.details.items() if value not in (None, "", [], {})}
    return Told(
        event.seq,
        iso(event.at_us),
        event.actor.removeprefix("user:"),
        event.action,
        event.subject.removeprefix(f"{project}/") if project else event.subject,
        _link(event.subject),
        _gist(details),
        json.dumps(details, indent=1, ensure_ascii=False) if details else "",
        event.hash,
    )


def _link(subject: str) -> str:
    parts = subject.split("/")
    if len(parts) < 3 or parts[1] not in _PAGES:
        return ""
    if len(parts) >= 5 and parts[3] == "versions":
        return at("p", *parts[:5])
    return at("p", *parts[:3])


def _gist(details: dict[str, Any]) -> str:
    parts = [say(details[name]) for name, say in _WORTH.items() if name in details]
    return " \N{MIDDLE DOT} ".join(part for part in parts if part)


def _shares(value: Any, words: str) -> str:
    found = value.items() if isinstance(value, dict) else ()
    return ", ".join(f"v{one}{words} {percent(share)}" for one, share in found if isinstance(share, int | float))


def find(
    connection: sa.Connection, wanted: Filter, project_id: str | None, before: int, most: int
) -> tuple[Sequence[Event], int]:
    """Return events newest first, those before a number unless it is 0, and where the next page begins, 0 at the end.

    At most `WINDOW` numbers are looked through, so that a filter that lets little through takes no longer than another.
    """
    top = before or end(connection)[0] + 1
    bottom = max(top - WINDOW, 0)
    query = sa.select(events).where(events.c.seq < top, events.c.seq >= bottom)
    rows = connection.execute(_narrowed(query, wanted, project_id).order_by(events.c.seq.desc()).limit(most + 1))
    found = [Event(**row) for row in rows.mappings()]
    if len(found) > most:
        return found[:most], found[most - 1].seq
    return found, bottom if bottom > 1 else 0


def since(connection: sa.Connection, wanted: Filter, project_id: str | None, after: int, most: int) -> list[Event]:
    """Return the events behind a number in order, at most so many."""
    query = sa.select(events).where(events.c.seq > after)
    rows = connection.execute(_narrowed(query, wanted, project_id).order_by(events.c.seq).limit(most))
    return [Event(**row) for row in rows.mappings()]


def _narrowed(query: "sa.Select[Any]", wanted: Filter, project_id: str | None) -> "sa.Select[Any]":
    if project_id is not None:
        query = query.where(events.c.project_id == project_id)
    if not wanted.kind:
        query = query.where(*(events.c.action.not_like(f"{kind}.%") for kind in _NOISE))
    elif wanted.kind != EVERYTHING:
        query = query.where(events.c.action.startswith(f"{wanted.kind}.", autoescape=True))
    if wanted.actor:
        query = query.where(events.c.actor == f"user:{wanted.actor}")
    if wanted.text:
        query = query.where(events.c.subject.contains(wanted.text, autoescape=True))
    return query
