"""What happened: in a project, and for administrators everywhere; filtered, and followed as it happens."""

from typing import Any, Final

from tilth.control.api.desk import Call
from tilth.control.console import view
from tilth.control.console.door import PROJECT, Door
from tilth.control.console.frame import Ask, Page
from tilth.control.console.history import EVERYTHING, Filter, find, since, told
from tilth.control.console.live import Live, Part
from tilth.control.store.audit import end

#: What events are about, as their actions begin.
KINDS: Final = (
    "model", "version", "alias", "endpoint", "blob", "upload", "node", "member", "project", "token", "session", "user",
)  # fmt: skip
_ROWS, _AT_ONCE, _MOST_TEXT = 50, 50, 128
_OF_PROJECT, _ALL = f"{PROJECT}/events", "/console/events"


def declare(door: Door, live: Live) -> None:
    """Declare the pages and streams."""

    @door.page(_OF_PROJECT, "event.read")
    def list_events(call: Call, ask: Ask) -> Page:
        return _page(call, ask, call.project["id"])

    @live.stream(f"{_OF_PROJECT}/live", "event.read")
    def follow(call: Call, ask: Ask, memory: dict[str, Any]) -> list[Part]:
        return _fresh(call, ask, memory, call.project["id"])

    @door.page(_ALL, "audit.read")
    def list_all_events(call: Call, ask: Ask) -> Page:
        return _page(call, ask, None)

    @live.stream(f"{_ALL}/live", "audit.read")
    def follow_all(call: Call, ask: Ask, memory: dict[str, Any]) -> list[Part]:
        return _fresh(call, ask, memory, None)


def _filter(ask: Ask) -> Filter:
    kind = ask.query.get("kind", "")
    actor, text = (ask.query.get(name, "").strip()[:_MOST_TEXT] for name in ("actor", "text"))
    return Filter(kind if kind in (*KINDS, EVERYTHING) else "", actor, text)


def _page(call: Call, ask: Ask, project_id: str | None) -> Page:
    wanted, before = _filter(ask), _number(ask.query.get("before", ""))
    found, following = find(call.connection, wanted, project_id, before, _ROWS)
    values = {
        "events": [told(one, _name(call)) for one in found],
        "everywhere": project_id is None,
        "filter": wanted,
        "kinds": KINDS,
        "before": before,
        "next": following,
        "newest": end(call.connection)[0],
        "most_rows": _ROWS,
    }
    return Page("events", "all-events" if project_id is None else "events", values)


def _fresh(call: Call, ask: Ask, memory: dict[str, Any], project_id: str | None) -> list[Part]:
    last = memory.setdefault("last", _number(ask.query.get("after", "")))
    newest = end(call.connection)[0]
    if newest == last:
        return []
    found = since(call.connection, _filter(ask), project_id, last, _AT_ONCE)
    memory["last"] = found[-1].seq if len(found) == _AT_ONCE else max(newest, last)
    if not found:
        return []
    rows = {"events": [told(one, _name(call)) for one in reversed(found)], "everywhere": project_id is None}
    return [Part("event-list", view.rendered("part_event_lines", rows), adds=True)]


def _name(call: Call) -> str:
    return str(call.project["name"]) if call.project else ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0
