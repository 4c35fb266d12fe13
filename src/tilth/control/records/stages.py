"""Stages of versions, and the second person whom some of them ask for."""

from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError, ForbiddenError
from tilth.client.shapes.model import Approval, Decision, NewStage
from tilth.client.shapes.shape import Listing
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.records import versions as version_records
from tilth.control.store.paging import page
from tilth.control.store.tables import approvals, models, users, versions
from tilth.core.errors import MissingError

_ASKED, _DECIDED = users.alias("asked"), users.alias("decided")
_SELECT = (
    sa.select(
        approvals,
        models.c.name.label("model"),
        versions.c.number,
        _ASKED.c.name.label("asked_by"),
        _DECIDED.c.name.label("by"),
    )
    .join(versions, versions.c.id == approvals.c.version_id)
    .join(models, models.c.id == versions.c.model_id)
    .outerjoin(_ASKED, _ASKED.c.id == approvals.c.created_by)
    .outerjoin(_DECIDED, _DECIDED.c.id == approvals.c.decided_by)
)


def ask(
    change: Change, project: sa.RowMapping, model: sa.RowMapping, which: str, order: NewStage, match: str | None
) -> Approval:
    """Put a version into a stage, or ask for a second person where the model's rules want one.

    Raises:
        MissingError: there is no such version.
        ConflictError: it is in the stage, or on its way.
        StaleError: it was changed meanwhile.
    """
    row = version_records.found(change.connection, model, which)
    expect(match, row["rev"])
    if row["stage"] == order.stage:
        raise ConflictError(f"version {row['number']} is in stage `{order.stage}` already")
    waiting = (approvals.c.version_id == row["id"]) & (approvals.c.state == "waiting")
    if change.connection.execute(sa.select(approvals.c.id).where(waiting)).first():
        raise ConflictError(f"version {row['number']} waits for an approval", hint="accept or reject that first")
    guarded = order.stage in model["approve"]
    made = change.made() | {
        "version_id": row["id"],
        "stage": order.stage,
        "note": order.note,
        "state": "waiting" if guarded else "accepted",
        "decided_by": None if guarded else change.principal.user_id,
        "decided_us": None if guarded else change.at_us,
        "rev": 1,
    }
    change.connection.execute(approvals.insert().values(made))
    subject = version_records.subject(project, model, row["number"])
    if not guarded:
        change.update(versions, row["id"], row["rev"], {"stage": order.stage})
    change.tell(
        "version.ask" if guarded else "version.stage", subject, project["id"], stage=order.stage, was=row["stage"]
    )
    return get(change.connection, project["id"], made["id"])


def decide(
    change: Change, project: sa.RowMapping, approval_id: str, order: Decision, match: str | None = None
) -> Approval:
    """Accept or reject a version on its way into a stage.

    Raises:
        MissingError: there is no such approval in the project.
        ConflictError: it is decided.
        ForbiddenError: who asked wants to accept.
        StaleError: it was changed meanwhile.
    """
    row = _found(change.connection, project["id"], approval_id)
    expect(match, row["rev"])
    if row["state"] != "waiting":
        raise ConflictError(f"it is {row['state']} already")
    if order.accept and row["created_by"] == change.principal.user_id:
        raise ForbiddenError(
            "you asked for this",
            why="a second person has to accept it",
            hint="ask another operator of the project; you can reject it yourself",
        )
    state = "accepted" if order.accept else "rejected"
    decided = {"state": state, "decided_by": change.principal.user_id, "decided_us": change.at_us}
    change.update(approvals, row["id"], row["rev"], decided)
    if order.accept:
        key = versions.c.id == row["version_id"]
        change.connection.execute(versions.update().where(key).values(stage=row["stage"], rev=versions.c.rev + 1))
    subject = version_records.subject(project, {"name": row["model"]}, row["number"])
    change.tell(f"version.{state}", subject, project["id"], stage=row["stage"], note=order.note)
    return get(change.connection, project["id"], approval_id)


def listed(
    connection: sa.Connection, project_id: str, cursor: str, limit: int, state: str = "", model: str = ""
) -> Listing[Approval]:
    """Return a page of a project's approvals, newest first, those in `state` and of `model` where they are named."""
    query = _SELECT.where(models.c.project_id == project_id)
    if state:
        query = query.where(approvals.c.state == state)
    if model:
        query = query.where(models.c.name == model)
    rows = page(connection, query, (approvals.c.id,), cursor, limit, newest_first=True)
    return Listing[Approval](items=[_shape(row) for row in rows.rows], next=rows.next)


def get(connection: sa.Connection, project_id: str, approval_id: str) -> Approval:
    """Return an approval.

    Raises:
        MissingError: there is none of this id in the project.
    """
    return _shape(_found(connection, project_id, approval_id))


def _found(connection: sa.Connection, project_id: str, approval_id: str) -> sa.RowMapping:
    query = _SELECT.where(approvals.c.id == approval_id, models.c.project_id == project_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise MissingError("there is no such approval in this project")
    return row


def _shape(row: Any) -> Approval:
    return Approval(
        id=row["id"],
        model=row["model"],
        number=row["number"],
        stage=row["stage"],
        note=row["note"],
        state=row["state"],
        asked_by=row["asked_by"] or row["created_by"],
        decided_by=row["by"],
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )
