"""Aliases: names such as `champion` that move from version to version."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tilth.client.names import checked
from tilth.client.shapes.model import Alias
from tilth.client.shapes.shape import Listing
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.records import models as model_records
from tilth.control.store.paging import page
from tilth.control.store.tables import aliases, versions
from tilth.core.errors import MissingError

_SELECT = sa.select(aliases, versions.c.number).join(versions, versions.c.id == aliases.c.version_id)
_OF_VERSIONS = (
    sa.select(aliases.c.version_id, aliases.c.name)
    .where(aliases.c.version_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(aliases.c.name)
)


def listed(connection: sa.Connection, model: sa.RowMapping, cursor: str, limit: int) -> Listing[Alias]:
    """Return a page of a model's aliases by name."""
    rows = page(connection, _SELECT.where(aliases.c.model_id == model["id"]), (aliases.c.name,), cursor, limit)
    return Listing[Alias](items=[_shape(row) for row in rows.rows], next=rows.next)


def get(connection: sa.Connection, model: sa.RowMapping, name: str) -> Alias:
    """Return an alias.

    Raises:
        MissingError: the model has none of this name.
    """
    return _shape(_found(connection, model, name))


def put(
    change: Change, project: sa.RowMapping, model: sa.RowMapping, name: str, number: int, match: str | None
) -> Alias:
    """Let an alias name a version.

    Raises:
        InvalidError: it is no name of an alias.
        MissingError: there is no such version.
        StaleError: the alias was changed meanwhile.
    """
    checked("alias", name)
    connection = change.connection
    wanted = sa.select(versions).where(versions.c.model_id == model["id"], versions.c.number == number)
    version = connection.execute(wanted).mappings().first()
    if version is None:
        raise MissingError(f"there is no version {number} of `{model['name']}`")
    key = (aliases.c.model_id == model["id"]) & (aliases.c.name == name)
    before = connection.execute(_SELECT.where(key)).mappings().first()
    expect(match, before["rev"] if before else 0)
    if before is None:
        row = {"model_id": model["id"], "name": name, "version_id": version["id"]}
        connection.execute(aliases.insert().values(row | change.stamp()))
    else:
        connection.execute(aliases.update().where(key).values(version_id=version["id"], rev=before["rev"] + 1))
    _touch(change, {version["id"], *([before["version_id"]] if before else [])})
    model_records.touch(change, model)
    was = before["number"] if before else None
    subject = f"{model_records.subject(project, model['name'])}/aliases/{name}"
    change.tell("alias.put", subject, project["id"], number=number, was=was)
    return get(connection, model, name)


def remove(change: Change, project: sa.RowMapping, model: sa.RowMapping, name: str, match: str | None) -> None:
    """Remove an alias.

    Raises:
        MissingError: the model has none of this name.
        StaleError: it was changed meanwhile.
    """
    row = _found(change.connection, model, name)
    expect(match, row["rev"])
    key = (aliases.c.model_id == model["id"]) & (aliases.c.name == name)
    change.connection.execute(aliases.delete().where(key))
    _touch(change, {row["version_id"]})
    model_records.touch(change, model)
    subject = f"{model_records.subject(project, model['name'])}/aliases/{name}"
    change.tell("alias.remove", subject, project["id"], was=row["number"])


def of_versions(connection: sa.Connection, version_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the aliases of versions, by version id."""
    made: dict[str, list[str]] = {}
    found = connection.execute(_OF_VERSIONS, {"ids": list(version_ids)}) if version_ids else ()
    for version_id, name in found:
        made.setdefault(version_id, []).append(name)
    return made


def _touch(change: Change, version_ids: set[str]) -> None:
    key = versions.c.id.in_(sorted(version_ids))
    change.connection.execute(versions.update().where(key).values(rev=versions.c.rev + 1))


def _found(connection: sa.Connection, model: sa.RowMapping, name: str) -> sa.RowMapping:
    key = (aliases.c.model_id == model["id"]) & (aliases.c.name == name)
    row = connection.execute(_SELECT.where(key)).mappings().first()
    if row is None:
        raise MissingError(f"there is no alias `{ascii(name[:80])[1:-1]}` of `{model['name']}`")
    return row


def _shape(row: Any) -> Alias:
    return Alias(name=row["name"], number=row["number"], created_at=iso(row["created_us"]), etag=etag(row["rev"]))
