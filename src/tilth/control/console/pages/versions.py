"""A version: its certificates, where it came from, its stage and aliases, and the way to an endpoint."""

from typing import Any

import sqlalchemy as sa

from tilth.client.shapes.endpoint import Deploy, NewEndpoint
from tilth.client.shapes.model import Decision, NewStage, VersionChange
from tilth.control.api.desk import Call
from tilth.control.console.door import PROJECT, Door
from tilth.control.console.frame import Ask, Go, Page
from tilth.control.console.order import as_lines, order, tags
from tilth.control.console.pages.models import check_sure
from tilth.control.console.sources import Sources
from tilth.control.console.words import at
from tilth.control.records import aliases, endpoints, models, stages, versions
from tilth.control.store.tables import endpoints as endpoint_table
from tilth.control.store.tables import versions as version_table
from tilth.core.errors import TilthError

_ONE = f"{PROJECT}/models/{{model}}/versions/{{version}}"
_APPROVALS = f"{PROJECT}/approvals"
_ROWS = 50
_STATES = ("waiting", "accepted", "rejected")


def declare(door: Door, sources: Sources) -> None:
    """Declare the pages and forms."""

    @door.page(_ONE, "model.read")
    def show_version(call: Call, ask: Ask) -> Page:
        return Page("version", "models", _values(call, ask, sources))

    _changes(door, show_version)
    _deploy(door, show_version)
    _approvals(door)


def _values(call: Call, ask: Ask, sources: Sources) -> dict[str, Any]:
    model = models.found(call.connection, call.project["id"], ask.path["model"])
    version = versions.get(call.connection, model, ask.path["version"])
    # The newest first: what is decided does not hide what waits.
    asked = stages.listed(call.connection, call.project["id"], "", _ROWS, "", model["name"]).items
    used = sa.select(endpoint_table.c.name, endpoint_table.c.wanted).where(endpoint_table.c.model_id == model["id"])
    served = [(row.name, row.wanted) for row in call.connection.execute(used.order_by(endpoint_table.c.name))]
    evidence, damage = _evidence(sources, version.digest)
    return {
        "model": model,
        "version": version,
        "tag_lines": as_lines(version.tags),
        "evidence": evidence,
        "damage": damage,
        "approvals": [one for one in asked if one.number == version.number],
        "asks": call.principal.name,
        "aliases": aliases.listed(call.connection, model, "", 200).items,
        "served": [(name, _share(wanted, version.number)) for name, wanted in served],
        "stages": ("none", "staging", "production", "archived"),
        "neighbours": _neighbours(call, model, version.number),
    }


def _evidence(sources: Sources, digest: str) -> tuple[Any, TilthError | None]:
    try:
        return sources.figures.of(digest), None
    except TilthError as error:
        return None, error


def _share(wanted: dict[str, Any], version: int) -> dict[str, float]:
    return {kind: wanted.get(kind, {}).get(str(version), 0.0) for kind in ("traffic", "shadow")}


def _neighbours(call: Call, model: sa.RowMapping, version: int) -> tuple[int | None, int | None]:
    """Return the numbers of the versions before and behind one."""
    table = version_table
    own = table.c.model_id == model["id"]
    before = sa.select(sa.func.max(table.c.number)).where(own, table.c.number < version)
    behind = sa.select(sa.func.min(table.c.number)).where(own, table.c.number > version)
    return call.connection.execute(before).scalar(), call.connection.execute(behind).scalar()


def _changes(door: Door, show: Any) -> None:
    @door.form(f"{_ONE}/change", "version.change", "change", show)
    def change_version(call: Call, ask: Ask) -> Go:
        model = models.found(call.connection, call.project["id"], ask.path["model"])
        wanted = order(VersionChange, description=ask.form.lines("description"), tags=tags(ask.form.lines("tags")))
        versions.alter(call.change, call.project, model, ask.path["version"], wanted, call.match)
        return _back(call, ask, "changed")

    @door.form(f"{_ONE}/stage", "version.stage", "stage", show)
    def stage_version(call: Call, ask: Ask) -> Go:
        model = models.found(call.connection, call.project["id"], ask.path["model"])
        wanted = order(NewStage, stage=ask.form.text("stage"), note=ask.form.lines("note"))
        made = stages.ask(call.change, call.project, model, ask.path["version"], wanted, call.match)
        return _back(call, ask, "asked" if made.state == "waiting" else "staged")

    @door.form(f"{_ONE}/remove", "version.change", "remove", show)
    def remove_version(call: Call, ask: Ask) -> Go:
        check_sure(ask)
        model = models.found(call.connection, call.project["id"], ask.path["model"])
        versions.remove(call.change, call.project, model, ask.path["version"], call.match)
        return Go(at("p", call.project["name"], "models", ask.path["model"]), "version-removed")


def _deploy(door: Door, show: Any) -> None:
    @door.form(f"{_ONE}/deploy", "endpoint.change", "deploy", show)
    def deploy_here(call: Call, ask: Ask) -> Go:
        name = ask.form.text("endpoint")
        if not name:
            name = ask.form.text("new_endpoint")
            endpoints.make(call.change, call.project, order(NewEndpoint, name=name, model=ask.path["model"]))
        wanted = deployment(ask, ask.path["version"])
        endpoints.deploy(call.change, call.project, name, wanted, None)
        return Go(at("p", call.project["name"], "endpoints", name), "deployed")


def deployment(ask: Ask, version: str) -> Deploy:
    """Return what a form with a share, a way to take part and a note asks for.

    Raises:
        InvalidError: a share is no number from 0 to 100.
    """
    share, looks_on = ask.form.number("share", 100.0), ask.form.text("way") == "shadow"
    traffic, shadow = (0.0, share) if looks_on else (share, 0.0)
    return order(Deploy, version=version, traffic=traffic, shadow=shadow, note=ask.form.lines("note"))


def _approvals(door: Door) -> None:
    @door.page(_APPROVALS, "model.read")
    def list_approvals(call: Call, ask: Ask) -> Page:
        state = ask.query.get("state", "waiting")
        state = state if state in (*_STATES, "all") else "waiting"
        wanted = "" if state == "all" else state
        found = stages.listed(call.connection, call.project["id"], ask.query.get("cursor", ""), _ROWS, wanted)
        values = {"approvals": found.items, "next": found.next, "state": state, "asks": call.principal.name}
        return Page("approvals", "approvals", values | {"states": (*_STATES, "all")})

    @door.form(f"{_APPROVALS}/{{approval}}", "version.stage", "decide", list_approvals)
    def decide(call: Call, ask: Ask) -> Go:
        wanted = order(Decision, accept=ask.form.text("say") == "accept", note=ask.form.lines("note"))
        made = stages.decide(call.change, call.project, ask.path["approval"], wanted)
        if ask.form.text("on_version"):
            return Go(at("p", call.project["name"], "models", made.model, "versions", made.number), "decided")
        return Go(at("p", call.project["name"], "approvals"), "decided")


def _back(call: Call, ask: Ask, done: str) -> Go:
    return Go(at("p", call.project["name"], "models", ask.path["model"], "versions", ask.path["version"]), done)
