"""Versions of a model: bundles with a number, found by it, by an alias or as `latest`."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.client.names import number
from tilth.client.shapes.model import NewVersion, Version, VersionChange
from tilth.client.shapes.shape import Listing
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.records import aliases as alias_records
from tilth.control.records import models as model_records
from tilth.control.store.paging import page
from tilth.control.store.tables import aliases, approvals, endpoints, standings, users, uses, versions
from tilth.core.errors import MissingError

_SELECT = sa.select(versions, users.c.name.label("by")).outerjoin(users, users.c.id == versions.c.created_by)
_OF_MODEL = _SELECT.where(versions.c.model_id == sa.bindparam("model_id"))
_BY_NUMBER = _OF_MODEL.where(versions.c.number == sa.bindparam("number"))
_BY_ALIAS = _OF_MODEL.join(aliases, aliases.c.version_id == versions.c.id).where(
    aliases.c.name == sa.bindparam("alias")
)
_NEWEST = _OF_MODEL.order_by(versions.c.number.desc()).limit(1)


def found(connection: sa.Connection, model: sa.RowMapping, which: str) -> sa.RowMapping:
    """Return the row of the version of `model` that a number, an alias or `latest` names.

    Raises:
        MissingError: there is none.
    """
    wanted, key = number(which), {"model_id": model["id"]}
    if which == "latest":
        row = connection.execute(_NEWEST, key).mappings().first()
    elif wanted is None:
        row = connection.execute(_BY_ALIAS, key | {"alias": which}).mappings().first()
    else:
        row = connection.execute(_BY_NUMBER, key | {"number": wanted}).mappings().first()
    if row is None:
        raise MissingError(
            f"there is no version `{ascii(which[:80])[1:-1]}` of `{model['name']}`",
            why="it is no number, alias or `latest` of it",
            hint=f"`tilth models show {model['name']}` lists them",
        )
    return row


def register(
    change: Change,
    project: sa.RowMapping,
    model: sa.RowMapping,
    order: NewVersion,
    summary: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> Version:
    """Add a bundle that was verified as the next version; `sizes` are its blobs, the manifest among them.

    Raises:
        InvalidError: an alias is no name.
    """
    connection = change.connection
    row = change.made() | {
        "model_id": model["id"],
        "number": model["newest"] + 1,
        "digest": order.digest,
        "size_bytes": sum(sizes.values()),
        "stage": "none",
        "description": order.description,
        "tags": order.tags,
        "lineage": order.lineage.model_dump(),
        "summary": dict(summary),
        "rev": 1,
    }
    connection.execute(versions.insert().values(row))
    used = [{"version_id": row["id"], "project_id": project["id"], "digest": digest} for digest in sorted(sizes)]
    connection.execute(uses.insert(), used)
    model_records.touch(change, model, newest=row["number"])
    change.tell(
        "version.push",
        subject(project, model, row["number"]),
        project["id"],
        digest=order.digest,
        size_bytes=row["size_bytes"],
        lineage=row["lineage"],
    )
    for name in order.aliases:
        fresh = model_records.found(connection, project["id"], model["name"])
        alias_records.put(change, project, fresh, name, row["number"], None)
    return get(connection, model, str(row["number"]))


def get(connection: sa.Connection, model: sa.RowMapping, which: str) -> Version:
    """Return a version; raises as `found`."""
    row = found(connection, model, which)
    return _shape(row, model["name"], alias_records.of_versions(connection, [row["id"]]).get(row["id"], []))


def listed(connection: sa.Connection, model: sa.RowMapping, cursor: str, limit: int) -> Listing[Version]:
    """Return a page of versions, newest first."""
    query = _SELECT.where(versions.c.model_id == model["id"])
    rows = page(connection, query, (versions.c.number,), cursor, limit, newest_first=True)
    return Listing[Version](items=_shapes(connection, rows.rows, model["name"]), next=rows.next)


def alter(
    change: Change, project: sa.RowMapping, model: sa.RowMapping, which: str, order: VersionChange, match: str | None
) -> Version:
    """Change what is said of a version.

    Raises:
        MissingError: there is none.
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, model, which)
    expect(match, row["rev"])
    values = {key: value for key, value in order.model_dump().items() if value is not None}
    change.update(versions, row["id"], row["rev"], values)
    change.tell("version.change", subject(project, model, row["number"]), project["id"], **values)
    return get(change.connection, model, str(row["number"]))


def remove(change: Change, project: sa.RowMapping, model: sa.RowMapping, which: str, match: str | None) -> None:
    """Remove a version; its number is not given again, its blobs are swept when nothing else needs them.

    Raises:
        MissingError: there is none.
        ConflictError: an endpoint serves it, or an alias names it.
        StaleError: it was changed meanwhile.
    """
    connection = change.connection
    row = found(connection, model, which)
    expect(match, row["rev"])
    text = str(row["number"])
    served = sa.select(endpoints.c.name, endpoints.c.wanted, standings.c.traffic, standings.c.shadow)
    served = served.outerjoin(standings, standings.c.endpoint_id == endpoints.c.id)
    for name, wanted, traffic, shadow in connection.execute(served.where(endpoints.c.model_id == model["id"])):
        # After a deployment that failed, what answers is another than what is wanted.
        if text in {*wanted["traffic"], *wanted["shadow"], *(traffic or ()), *(shadow or ())}:
            raise ConflictError(f"endpoint `{name}` serves version {text}", hint="deploy another version first")
    named = alias_records.of_versions(connection, [row["id"]]).get(row["id"])
    if named:
        raise ConflictError(f"alias `{named[0]}` names version {text}", hint="move or remove the alias first")
    for table in (uses, approvals):
        connection.execute(table.delete().where(table.c.version_id == row["id"]))
    connection.execute(versions.delete().where(versions.c.id == row["id"]))
    model_records.touch(change, model)
    change.tell("version.remove", subject(project, model, row["number"]), project["id"], digest=row["digest"])


def subject(project: Any, model: Any, number: int) -> str:
    """Return how events name a version."""
    return f"{model_records.subject(project, model['name'])}/versions/{number}"


def _shapes(connection: sa.Connection, rows: Sequence[Any], model: str) -> list[Version]:
    named = alias_records.of_versions(connection, [row["id"] for row in rows])
    return [_shape(row, model, named.get(row["id"], [])) for row in rows]


def _shape(row: Any, model: str, named: list[str]) -> Version:
    return Version(
        id=row["id"],
        model=model,
        number=row["number"],
        digest=row["digest"],
        size_bytes=row["size_bytes"],
        stage=row["stage"],
        description=row["description"],
        tags=row["tags"],
        lineage=row["lineage"],
        aliases=named,
        summary=row["summary"],
        created_by=row["by"] or row["created_by"],
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )
