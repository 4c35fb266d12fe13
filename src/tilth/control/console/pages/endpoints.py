"""Endpoints: the list, and one endpoint with what it does, who answers how much, and the way back."""

from collections.abc import Mapping
from typing import Any

from tilth.client.shapes.endpoint import Deploy, NewEndpoint, Promote, Rollback
from tilth.control.api.desk import Call
from tilth.control.console import view
from tilth.control.console.call_example import command
from tilth.control.console.door import PROJECT, Door
from tilth.control.console.frame import Ask, Go, Page
from tilth.control.console.live import Live, Part
from tilth.control.console.now import Now, charts, now, slices
from tilth.control.console.order import order
from tilth.control.console.pages.versions import deployment
from tilth.control.console.sources import Sources
from tilth.control.console.words import at, ms, rate
from tilth.control.records import endpoints, models, versions
from tilth.core.errors import InvalidError, MissingError

_ALL, _ONE = f"{PROJECT}/endpoints", f"{PROJECT}/endpoints/{{endpoint}}"
_ROWS, _CHOICES, _HISTORY = 50, 100, 20


def declare(door: Door, live: Live, sources: Sources) -> None:
    """Declare the pages, forms and streams."""
    _list(door, live, sources)

    @door.page(_ONE, "endpoint.read")
    def show_endpoint(call: Call, ask: Ask) -> Page:
        return Page("endpoint", "endpoints", _values(call, ask, sources))

    @live.stream(f"{_ONE}/live", "endpoint.read")
    def moving(call: Call, ask: Ask, memory: dict[str, Any]) -> list[Part]:
        values = _moving(call, ask, sources) | {"project": call.project["name"], "seen": ask.query.get("seen", "")}
        parts = [
            Part(name.replace("_", "-"), view.rendered(f"part_{name}", values))
            for name in ("endpoint_state", "endpoint_charts", "endpoint_versions")
        ]
        return [*parts, *_spoken(values["now"], memory)]

    _forms(door, show_endpoint)


def _list(door: Door, live: Live, sources: Sources) -> None:
    def shown(call: Call, cursor: str) -> dict[str, Any]:
        found = endpoints.listed(call.connection, call.project["id"], cursor, _ROWS)
        return {"endpoints": [now(one, sources.points(one)) for one in found.items], "next": found.next}

    @door.page(_ALL, "endpoint.read")
    def list_endpoints(call: Call, ask: Ask) -> Page:
        values = shown(call, ask.query.get("cursor", ""))
        values["models"] = models.listed(call.connection, call.project["id"], "", _CHOICES).items
        return Page("endpoints", "endpoints", values | {"cursor": ask.query.get("cursor", "")})

    @live.stream(f"{_ALL}-live", "endpoint.read")
    def moving(call: Call, ask: Ask, _: dict[str, Any]) -> list[Part]:
        values = shown(call, ask.query.get("cursor", "")) | {"project": call.project["name"]}
        return [Part("endpoint-rows", view.rendered("part_endpoint_rows", values))]

    @door.form(f"{_ALL}/make", "endpoint.change", "make", list_endpoints)
    def make_endpoint(call: Call, ask: Ask) -> Go:
        name, model = ask.form.text("name"), ask.form.text("model")
        wanted = order(NewEndpoint, name=name, model=model, description=ask.form.lines("description"))
        endpoints.make(call.change, call.project, wanted)
        return Go(at("p", call.project["name"], "endpoints", name), "endpoint-made")


def _moving(call: Call, ask: Ask, sources: Sources) -> dict[str, Any]:
    endpoint = endpoints.get(call.connection, call.project["id"], ask.path["endpoint"])
    points = sources.points(endpoint)
    return {"now": now(endpoint, points), "charts": charts(endpoint, points), "endpoint": endpoint}


def _values(call: Call, ask: Ask, sources: Sources) -> dict[str, Any]:
    values = _moving(call, ask, sources)
    endpoint = values["endpoint"]
    model = models.found(call.connection, call.project["id"], endpoint.model)
    row = endpoints.found(call.connection, call.project["id"], endpoint.name)
    history = endpoints.history(call.connection, row["id"], ask.query.get("cursor", ""), _HISTORY)
    choices = versions.listed(call.connection, model, "", _CHOICES).items
    inputs = choices[0].summary.get("inputs", []) if choices else []
    return values | {
        "model": model,
        "choices": choices,
        "allowed": [one.number for one in choices if not model["deploy"] or one.stage in model["deploy"]],
        "wanted": slices(endpoint.wanted.traffic),
        "shadows": slices(endpoint.wanted.shadow),
        "history": [(one, slices(one.wanted.traffic), slices(one.wanted.shadow)) for one in history.items],
        "next": history.next,
        "before": next((one for one in history.items if one.number == endpoint.deployment - 1), None),
        "seen": str(endpoint.deployment),
        "example": command(sources.address(ask.base), endpoint.served_as, inputs),
    }


def _spoken(shown: Now, memory: dict[str, Any]) -> list[Part]:
    """Return the same in words for a reader of screens: at once when the state changes, else every 15 looks."""
    memory["looks"] = memory.get("looks", 0) + 1
    if memory.get("state") == shown.state and memory["looks"] < 15:
        return []
    memory |= {"looks": 0, "state": shown.state}
    words = f"{shown.endpoint.name} is {shown.state}, {rate(shown.requests_per_s)}, p95 {ms(shown.p95_ms)}"
    return [Part("endpoint-spoken", words)]


def _forms(door: Door, show: Any) -> None:
    @door.form(f"{_ONE}/deploy", "endpoint.change", "deploy", show)
    def deploy(call: Call, ask: Ask) -> Go:
        version = ask.form.text("version")
        if not version:
            raise InvalidError("no version is chosen", hint="choose one, or push a bundle first")
        name = ask.path["endpoint"]
        endpoints.deploy(call.change, call.project, name, deployment(ask, version), call.match)
        return _back(call, ask, "deployed")

    @door.form(f"{_ONE}/shift", "endpoint.change", "shift", show)
    def shift(call: Call, ask: Ask) -> Go:
        name, version = ask.path["endpoint"], ask.form.text("version")
        wanted = endpoints.get(call.connection, call.project["id"], name).wanted
        wanted_order = _shifted(wanted.traffic, version, ask)
        endpoints.deploy(call.change, call.project, name, wanted_order, call.match)
        return _back(call, ask, "shifted")

    @door.form(f"{_ONE}/promote", "endpoint.change", "promote", show)
    def promote(call: Call, ask: Ask) -> Go:
        wanted = order(Promote, version=ask.form.text("version"), note=ask.form.lines("note"))
        endpoints.promote(call.change, call.project, ask.path["endpoint"], wanted, call.match)
        return _back(call, ask, "promoted")

    @door.form(f"{_ONE}/rollback", "endpoint.change", "rollback", show)
    def roll_back(call: Call, ask: Ask) -> Go:
        wanted = order(Rollback, deployment=ask.form.whole("deployment"), note=ask.form.lines("note"))
        endpoints.rollback(call.change, call.project, ask.path["endpoint"], wanted, call.match)
        return _back(call, ask, "rolled-back")

    @door.form(f"{_ONE}/remove", "endpoint.change", "remove", show)
    def remove(call: Call, ask: Ask) -> Go:
        if ask.form.text("name") != ask.path["endpoint"]:
            raise InvalidError(
                "the endpoint is not removed", why="the name that was typed is another", hint="type its name"
            )
        endpoints.remove(call.change, call.project, ask.path["endpoint"], call.match)
        return Go(at("p", call.project["name"], "endpoints"), "endpoint-removed")


def _shifted(traffic: Mapping[str, float], version: str, ask: Ask) -> Deploy:
    if version not in traffic:
        raise MissingError(f"version `{ascii(version[:20])[1:-1]}` does not answer at this endpoint")
    return order(Deploy, version=version, traffic=ask.form.number("share", 100.0), note=ask.form.lines("note"))


def _back(call: Call, ask: Ask, done: str) -> Go:
    return Go(at("p", call.project["name"], "endpoints", ask.path["endpoint"]), done)
