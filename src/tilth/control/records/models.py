"""Models: names under which versions are kept, with the rules for their stages."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.client.names import checked
from tilth.client.shapes.model import Model, ModelChange, NewModel
from tilth.client.shapes.shape import Listing
from tilth.control.access import check
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.store.paging import page
from tilth.control.store.tables import aliases, endpoints, models, versions
from tilth.core.errors import MissingError

_BY_NAME = sa.select(models).where(
    models.c.project_id == sa.bindparam("project_id"), models.c.name == sa.bindparam("name")
)
_ALIASES = (
    sa.select(aliases.c.model_id, aliases.c.name, versions.c.number)
    .join(versions, versions.c.id == aliases.c.version_id)
    .where(aliases.c.model_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(aliases.c.name)
)


def found(connection: sa.Connection, project_id: str, name: str) -> sa.RowMapping:
    """Return the row of a model.

    Raises:
        MissingError: there is none of this name in the project.
    """
    row = connection.execute(_BY_NAME, {"project_id": project_id, "name": name}).mappings().first()
    if row is None:
        raise MissingError(f"there is no model `{ascii(name[:80])[1:-1]}`", hint="`tilth models` lists them")
    return row


def make(change: Change, project: sa.RowMapping, order: NewModel) -> Model:
    """Make a model.

    Raises:
        InvalidError: the name is none.
        ConflictError: there is one of this name.
    """
    checked("model", order.name)
    key = {"project_id": project["id"], "name": order.name}
    if change.connection.execute(_BY_NAME, key).first():
        raise ConflictError(f"there is a model `{order.name}` already", hint="choose another name")
    row = change.made() | key | order.model_dump() | {"newest": 0, "rev": 1}
    change.connection.execute(models.insert().values(row))
    change.tell("model.make", subject(project, order.name), project["id"], approve=order.approve, deploy=order.deploy)
    return _shape(row, {})


def get(connection: sa.Connection, project_id: str, name: str) -> Model:
    """Return a model; raises as `found`."""
    row = found(connection, project_id, name)
    return _shape(row, _aliases(connection, [row["id"]]).get(row["id"], {}))


def listed(connection: sa.Connection, project_id: str, cursor: str, limit: int, prefix: str = "") -> Listing[Model]:
    """Return a page of models by name, those whose name begins with `prefix`."""
    query = sa.select(models).where(models.c.project_id == project_id)
    if prefix:
        query = query.where(models.c.name.startswith(prefix, autoescape=True))
    rows = page(connection, query, (models.c.name,), cursor, limit)
    named = _aliases(connection, [row["id"] for row in rows.rows])
    return Listing[Model](items=[_shape(row, named.get(row["id"], {})) for row in rows.rows], next=rows.next)


def alter(change: Change, project: sa.RowMapping, name: str, order: ModelChange, match: str | None) -> Model:
    """Change a model.

    Raises:
        MissingError: there is none of this name.
        ForbiddenError: its rules for stages would be others, and who asks is no admin of the project.
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, project["id"], name)
    expect(match, row["rev"])
    values = {key: value for key, value in order.model_dump().items() if value is not None}
    if any(values.get(rule, row[rule]) != row[rule] for rule in ("approve", "deploy")):
        check(change.principal, "model.rule", project["id"])
    change.update(models, row["id"], row["rev"], values)
    change.tell("model.change", subject(project, name), project["id"], **values)
    return get(change.connection, project["id"], name)


def remove(change: Change, project: sa.RowMapping, name: str, match: str | None) -> None:
    """Remove a model without versions.

    Raises:
        MissingError: there is none of this name.
        ConflictError: it has versions, or an endpoint is for it.
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, project["id"], name)
    expect(match, row["rev"])
    for kind, table in {"versions": versions, "endpoints": endpoints}.items():
        if change.connection.execute(sa.select(table.c.id).where(table.c.model_id == row["id"]).limit(1)).first():
            raise ConflictError(f"model `{name}` has {kind}", hint=f"remove its {kind} first")
    change.connection.execute(models.delete().where(models.c.id == row["id"]))
    change.tell("model.remove", subject(project, name), project["id"])


def touch(change: Change, row: sa.RowMapping, **values: Any) -> None:
    """Note that something of a model changed, so that its ETag is another."""
    change.update(models, row["id"], row["rev"], values)


def subject(project: Any, name: str) -> str:
    """Return how events name a model."""
    return f"{project['name']}/models/{name}"


def _aliases(connection: sa.Connection, model_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    made: dict[str, dict[str, int]] = {}
    for model_id, name, number in connection.execute(_ALIASES, {"ids": list(model_ids)}) if model_ids else ():
        made.setdefault(model_id, {})[name] = number
    return made


def _shape(row: Any, named: dict[str, int]) -> Model:
    return Model(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        tags=row["tags"],
        approve=row["approve"],
        deploy=row["deploy"],
        newest=row["newest"],
        aliases=named,
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )
