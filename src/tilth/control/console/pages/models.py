"""Models: the list, and one model with its versions, aliases, tags and rules for stages."""

from typing import Any, Final

import sqlalchemy as sa

from tilth.client.names import number
from tilth.client.shapes.model import ModelChange, NewModel
from tilth.control.api.desk import Call
from tilth.control.console.door import PROJECT, Door
from tilth.control.console.frame import Ask, Go, Page
from tilth.control.console.order import as_lines, order, tags
from tilth.control.console.words import at
from tilth.control.records import aliases, models, versions
from tilth.control.store.tables import endpoints as endpoint_table
from tilth.core.errors import InvalidError

#: Stages that rules can be about.
STAGES: Final = ("staging", "production", "archived")
_ROWS = 50
_MOST_PREFIX = 64
_ALL, _ONE = f"{PROJECT}/models", f"{PROJECT}/models/{{model}}"


def declare(door: Door) -> None:
    """Declare the pages and forms."""

    @door.page(_ALL, "model.read")
    def list_models(call: Call, ask: Ask) -> Page:
        prefix = ask.query.get("prefix", "")[:_MOST_PREFIX]
        found = models.listed(call.connection, call.project["id"], ask.query.get("cursor", ""), _ROWS, prefix)
        return Page("models", "models", {"models": found.items, "next": found.next, "prefix": prefix})

    @door.form(f"{_ALL}/make", "model.change", "make", list_models)
    def make_model(call: Call, ask: Ask) -> Go:
        wanted = order(NewModel, name=ask.form.text("name"), description=ask.form.lines("description"))
        models.make(call.change, call.project, wanted)
        return Go(at("p", call.project["name"], "models", wanted.name), "model-made")

    @door.page(_ONE, "model.read")
    def show_model(call: Call, ask: Ask) -> Page:
        return Page("model", "models", _values(call, ask))

    _changes(door, show_model)
    _aliases(door, show_model)


def _values(call: Call, ask: Ask) -> dict[str, Any]:
    row = models.found(call.connection, call.project["id"], ask.path["model"])
    model = models.get(call.connection, call.project["id"], row["name"])
    found = versions.listed(call.connection, row, ask.query.get("cursor", ""), _ROWS)
    used = sa.select(endpoint_table.c.name).where(endpoint_table.c.model_id == row["id"])
    return {
        "model": model,
        "tag_lines": as_lines(model.tags),
        "versions": found.items,
        "next": found.next,
        "aliases": aliases.listed(call.connection, row, "", 200).items,
        "used_by": list(call.connection.execute(used.order_by(endpoint_table.c.name).limit(50)).scalars()),
        "stages": STAGES,
    }


def _changes(door: Door, show: Any) -> None:
    @door.form(f"{_ONE}/change", "model.change", "change", show)
    def change_model(call: Call, ask: Ask) -> Go:
        wanted = order(ModelChange, description=ask.form.lines("description"), tags=tags(ask.form.lines("tags")))
        models.alter(call.change, call.project, ask.path["model"], wanted, call.match)
        return _back(call, ask, "changed")

    @door.form(f"{_ONE}/rules", "model.rule", "rules", show)
    def change_rules(call: Call, ask: Ask) -> Go:
        wanted = order(ModelChange, approve=ask.form.every("approve"), deploy=ask.form.every("deploy"))
        models.alter(call.change, call.project, ask.path["model"], wanted, call.match)
        return _back(call, ask, "changed")

    @door.form(f"{_ONE}/remove", "model.change", "remove", show)
    def remove_model(call: Call, ask: Ask) -> Go:
        check_sure(ask)
        models.remove(call.change, call.project, ask.path["model"], call.match)
        return Go(at("p", call.project["name"], "models"), "model-removed")


def check_sure(ask: Ask) -> None:
    """Return when a form that removes something for good says so.

    Raises:
        InvalidError: it does not.
    """
    if ask.form.text("sure") != "yes":
        raise InvalidError("nothing is removed", why="the box that says `for good` is not ticked", hint="tick it")


def _aliases(door: Door, show: Any) -> None:
    @door.form(f"{_ONE}/aliases/put", "version.change", "alias", show)
    def put_alias(call: Call, ask: Ask) -> Go:
        row = models.found(call.connection, call.project["id"], ask.path["model"])
        wanted = number(ask.form.text("number"))
        if wanted is None:
            raise InvalidError("an alias names a version by its number", hint="choose one of the list")
        # The ETag in the form is the model's, and an alias has one of its own.
        aliases.put(call.change, call.project, row, ask.form.text("alias"), wanted, None)
        return _back(call, ask, "alias-set")

    @door.form(f"{_ONE}/aliases/remove", "version.change", "alias-remove", show)
    def remove_alias(call: Call, ask: Ask) -> Go:
        row = models.found(call.connection, call.project["id"], ask.path["model"])
        aliases.remove(call.change, call.project, row, ask.form.text("alias"), call.match)
        return _back(call, ask, "alias-removed")


def _back(call: Call, ask: Ask, done: str) -> Go:
    """Return to the page that the form was on: the model's, or that of one of its versions."""
    parts: tuple[str, ...] = ("p", call.project["name"], "models", ask.path["model"])
    version = ask.form.text("on_version")
    return Go(at(*parts, "versions", version) if number(version) else at(*parts), done)
