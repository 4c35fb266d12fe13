"""The first page of a project: what answers, what waits for somebody, and what happened."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tilth.client.shapes.node import Node
from tilth.control.api.desk import Call
from tilth.control.clock import iso
from tilth.control.console import view
from tilth.control.console.door import PROJECT, Door
from tilth.control.console.frame import Ask, Page
from tilth.control.console.history import Filter, Told, find, told
from tilth.control.console.live import Live, Part
from tilth.control.console.now import Now, now
from tilth.control.console.sources import Sources
from tilth.control.console.words import moment
from tilth.control.records import endpoints, nodes, stages
from tilth.control.store.tables import models, versions

_ENDPOINTS, _EVENTS, _VERSIONS, _NODES, _APPROVALS = 50, 10, 6, 12, 20
#: A node that has not spoken for so long is silent; it speaks every ten seconds.
SILENT_S = 35.0


def declare(door: Door, live: Live, sources: Sources) -> None:
    """Declare the page and its stream."""

    @door.page(PROJECT, "project.read")
    def overview(call: Call, ask: Ask) -> Page:
        project = call.project["id"]
        values: dict[str, Any] = _moving(call, sources)
        values["versions"] = _newest(call)
        values["approvals"] = stages.listed(call.connection, project, "", _APPROVALS, "waiting").items
        values["asks"] = call.principal.name
        return Page("overview", "overview", values)

    @live.stream(f"{PROJECT}/live", "project.read")
    def moving(call: Call, ask: Ask, _: dict[str, Any]) -> list[Part]:
        values = _moving(call, sources) | {"project": call.project["name"]}
        names = ("tiles", "endpoint_rows", "event_rows", "node_rows")
        return [Part(name.replace("_", "-"), view.rendered(f"part_{name}", values)) for name in names]


def _moving(call: Call, sources: Sources) -> dict[str, Any]:
    project, connection = call.project["id"], call.connection
    found = endpoints.listed(connection, project, "", _ENDPOINTS)
    shown = [now(one, sources.points(one)) for one in found.items]
    machines = nodes.listed(connection, call.principal, "", _NODES)
    waiting = stages.listed(connection, project, "", _APPROVALS, "waiting")
    return {
        "endpoints": shown,
        "more_endpoints": bool(found.next),
        "events": _events(call),
        "nodes": [(one, is_silent(one)) for one in machines.items],
        "tiles": _tiles(call, shown, [one for one in machines.items if not is_silent(one)], len(waiting.items)),
    }


def _tiles(call: Call, shown: list[Now], speaking: list[Node], waiting: int) -> dict[str, Any]:
    count = sa.select(sa.func.count()).select_from(models).where(models.c.project_id == call.project["id"])
    asked = [one for one in shown if one.state != "empty"]
    return {
        "requests": sum(one.requests_per_s or 0.0 for one in shown),
        "errors": sum(one.errors_per_s or 0.0 for one in shown),
        "ready": sum(one.state == "ready" for one in asked),
        "asked": len(asked),
        "endpoints": len(shown),
        "models": call.connection.execute(count).scalar_one(),
        "nodes": len(speaking),
        "waiting": waiting,
    }


def _events(call: Call) -> list[Told]:
    found, _ = find(call.connection, Filter(), call.project["id"], 0, _EVENTS)
    return [told(one, call.project["name"]) for one in found]


def _newest(call: Call) -> list[dict[str, Any]]:
    """Return the versions that were pushed last, of any model of the project."""
    columns = (versions.c.number, versions.c.stage, versions.c.summary, versions.c.created_us, models.c.name)
    query = sa.select(*columns).join(models, models.c.id == versions.c.model_id)
    query = query.where(models.c.project_id == call.project["id"]).order_by(versions.c.id.desc()).limit(_VERSIONS)
    return [dict(row) | {"at": iso(row["created_us"])} for row in call.connection.execute(query).mappings()]


def is_silent(node: Node) -> bool:
    """Return whether a node should have spoken, and has not."""
    seen = moment(node.seen_at)
    return seen is None or (datetime.now(UTC) - seen).total_seconds() > SILENT_S
