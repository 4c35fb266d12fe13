"""Endpoints: what is wanted of each, deployment after deployment, beside what the reconciler last saw."""

from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.client.names import checked
from tilth.client.shapes.endpoint import Deploy, Deployment, Endpoint, NewEndpoint, Promote, Rollback, Standing, Wanted
from tilth.client.shapes.shape import Listing
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.records import models as model_records
from tilth.control.records import versions as version_records
from tilth.control.store.paging import page
from tilth.control.store.tables import deployments, endpoints, models, projects, standings, users
from tilth.control.traffic import Shares, deployed, promoted
from tilth.core.errors import MissingError, RefusedError

_SEEN = [standings.c[name].label(f"seen_{name}") for name in standings.c.keys()]
_SELECT = (
    sa.select(endpoints, models.c.name.label("model"), projects.c.name.label("project"), *_SEEN)
    .join(models, models.c.id == endpoints.c.model_id)
    .join(projects, projects.c.id == endpoints.c.project_id)
    .outerjoin(standings, standings.c.endpoint_id == endpoints.c.id)
)


def served_as(project: str, name: str) -> str:
    """Return the model name under which the data plane serves an endpoint; project names have no dot."""
    return f"{project}.{name}"


def found(connection: sa.Connection, project_id: str, name: str) -> sa.RowMapping:
    """Return the row of an endpoint, with what was last seen of it.

    Raises:
        MissingError: there is none of this name in the project.
    """
    query = _SELECT.where(endpoints.c.project_id == project_id, endpoints.c.name == name)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise MissingError(f"there is no endpoint `{ascii(name[:80])[1:-1]}`", hint="`tilth endpoints` lists them")
    return row


def make(change: Change, project: sa.RowMapping, order: NewEndpoint) -> Endpoint:
    """Make an endpoint, which serves nothing until something is deployed.

    Raises:
        InvalidError: the name is none.
        MissingError: there is no such model.
        ConflictError: there is one of this name.
    """
    checked("endpoint", order.name)
    connection = change.connection
    model = model_records.found(connection, project["id"], order.model)
    key = (endpoints.c.project_id == project["id"]) & (endpoints.c.name == order.name)
    if connection.execute(sa.select(endpoints.c.id).where(key)).first():
        raise ConflictError(f"there is an endpoint `{order.name}` already", hint="deploy to it, or choose another name")
    row = change.made() | {
        "project_id": project["id"],
        "name": order.name,
        "model_id": model["id"],
        "wanted": Shares().as_json(),
        "description": order.description,
    }
    connection.execute(endpoints.insert().values(row))
    change.tell("endpoint.make", subject(project, order.name), project["id"], model=order.model)
    return get(connection, project["id"], order.name)


def get(connection: sa.Connection, project_id: str, name: str) -> Endpoint:
    """Return an endpoint; raises as `found`."""
    return shape(found(connection, project_id, name))


def listed(connection: sa.Connection, project_id: str, cursor: str, limit: int) -> Listing[Endpoint]:
    """Return a page of endpoints by name."""
    rows = page(connection, _SELECT.where(endpoints.c.project_id == project_id), (endpoints.c.name,), cursor, limit)
    return Listing[Endpoint](items=[shape(row) for row in rows.rows], next=rows.next)


def all_of(connection: sa.Connection) -> list[sa.RowMapping]:
    """Return every endpoint of the installation, for the reconciler."""
    return list(connection.execute(_SELECT.order_by(endpoints.c.id)).mappings())


def deploy(change: Change, project: sa.RowMapping, name: str, order: Deploy, match: str | None) -> Endpoint:
    """Want a version at an endpoint.

    Raises:
        MissingError: there is no such endpoint or version.
        RefusedError: the model's rules do not let a version of this stage be deployed.
        InvalidError: the shares make no sense.
        StaleError: it was changed meanwhile.
    """
    row, number = _target(change, project, name, order.version, match)
    shares = deployed(Shares.of_json(row["wanted"]), number, order.traffic, order.shadow)
    return _want(change, project, row, shares, "endpoint.deploy", order.note)


def promote(change: Change, project: sa.RowMapping, name: str, order: Promote, match: str | None) -> Endpoint:
    """Want one version to answer everything; raises as `deploy`."""
    row, number = _target(change, project, name, order.version, match)
    return _want(change, project, row, promoted(number), "endpoint.promote", order.note)


def rollback(change: Change, project: sa.RowMapping, name: str, order: Rollback, match: str | None) -> Endpoint:
    """Want again what was wanted in an earlier deployment, the one before the newest when none is named.

    Raises:
        MissingError: there is no such endpoint or deployment.
        RefusedError: the model's rules do not let one of its versions be deployed.
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, project["id"], name)
    expect(match, row["rev"])
    wanted = order.deployment or row["deployment"] - 1
    key = (deployments.c.endpoint_id == row["id"]) & (deployments.c.number == wanted)
    before = change.connection.execute(sa.select(deployments.c.wanted).where(key)).scalar()
    if before is None:
        raise MissingError(f"endpoint `{name}` has no deployment {wanted} to go back to")
    shares = Shares.of_json(before)
    model = model_records.found(change.connection, project["id"], row["model"])
    for number in shares.versions:
        _check_stage(model, version_records.found(change.connection, model, number))
    note = order.note or f"back to deployment {wanted}"
    return _want(change, project, row, shares, "endpoint.rollback", note)


def remove(change: Change, project: sa.RowMapping, name: str, match: str | None) -> None:
    """Remove an endpoint; what it serves stops.

    Raises:
        MissingError: there is none of this name.
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, project["id"], name)
    expect(match, row["rev"])
    for table in (standings, deployments):
        change.connection.execute(table.delete().where(table.c.endpoint_id == row["id"]))
    change.connection.execute(endpoints.delete().where(endpoints.c.id == row["id"]))
    change.tell("endpoint.remove", subject(project, name), project["id"])


def history(connection: sa.Connection, endpoint_id: str, cursor: str, limit: int) -> Listing[Deployment]:
    """Return a page of an endpoint's deployments, newest first."""
    query = sa.select(deployments, users.c.name).outerjoin(users, users.c.id == deployments.c.created_by)
    query = query.where(deployments.c.endpoint_id == endpoint_id)
    rows = page(connection, query, (deployments.c.number,), cursor, limit, newest_first=True)
    return Listing[Deployment](items=[_deployment(row) for row in rows.rows], next=rows.next)


def see(connection: sa.Connection, endpoint_id: str, seen: dict[str, Any], at_us: int) -> None:
    """Keep what the reconciler saw of an endpoint, unless the endpoint has gone meanwhile."""
    if not connection.execute(sa.select(endpoints.c.id).where(endpoints.c.id == endpoint_id)).first():
        return
    key = standings.c.endpoint_id == endpoint_id
    values = seen | {"at_us": at_us}
    changed = connection.execute(standings.update().where(key).values(**values, rev=standings.c.rev + 1))
    if changed.rowcount == 0:
        connection.execute(standings.insert().values(endpoint_id=endpoint_id, **values))


def subject(project: Any, name: str) -> str:
    """Return how events name an endpoint."""
    return f"{project['name']}/endpoints/{name}"


def _target(
    change: Change, project: sa.RowMapping, name: str, which: str, match: str | None
) -> tuple[sa.RowMapping, str]:
    row = found(change.connection, project["id"], name)
    expect(match, row["rev"])
    model = model_records.found(change.connection, project["id"], row["model"])
    version = version_records.found(change.connection, model, which)
    _check_stage(model, version)
    return row, str(version["number"])


def _check_stage(model: sa.RowMapping, version: sa.RowMapping) -> None:
    if model["deploy"] and version["stage"] not in model["deploy"]:
        raise RefusedError(
            f"version {version['number']} of `{model['name']}` may not be deployed",
            why=f"it is in stage `{version['stage']}`, and the model's rules want {' or '.join(model['deploy'])}",
            hint=f"`tilth models stage {model['name']}:{version['number']} {model['deploy'][0]}`",
        )


def _want(
    change: Change, project: sa.RowMapping, row: sa.RowMapping, shares: Shares, action: str, note: str
) -> Endpoint:
    number, wanted = row["deployment"] + 1, shares.as_json()
    change.update(endpoints, row["id"], row["rev"], {"wanted": wanted, "deployment": number})
    made = {"endpoint_id": row["id"], "number": number, "wanted": wanted, "note": note}
    change.connection.execute(deployments.insert().values(made | change.stamp()))
    change.tell(action, subject(project, row["name"]), project["id"], deployment=number, **wanted, note=note)
    return get(change.connection, project["id"], row["name"])


def shape(row: Any) -> Endpoint:
    """Return an endpoint from its row."""
    seen = None
    if row["seen_endpoint_id"] is not None:
        seen = Standing(
            deployment=row["seen_deployment"],
            about=row["seen_about"],
            state=row["seen_state"],
            message=row["seen_message"],
            traffic=row["seen_traffic"],
            shadow=row["seen_shadow"],
            versions=row["seen_versions"],
            at=iso(row["seen_at_us"]),
        )
    return Endpoint(
        id=row["id"],
        name=row["name"],
        project=row["project"],
        model=row["model"],
        description=row["description"],
        deployment=row["deployment"],
        wanted=Wanted(**row["wanted"]),
        standing=seen,
        served_as=served_as(row["project"], row["name"]),
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"], row["seen_rev"] or 0),
    )


def _deployment(row: Any) -> Deployment:
    return Deployment(
        number=row["number"],
        wanted=Wanted(**row["wanted"]),
        note=row["note"],
        created_by=row["name"] or row["created_by"],
        created_at=iso(row["created_us"]),
    )
