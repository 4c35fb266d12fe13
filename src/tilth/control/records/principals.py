"""From a credential to who presents it, with every role that it has."""

from typing import Any

import sqlalchemy as sa

from tilth.control.access import Principal
from tilth.control.failure import UnknownError
from tilth.control.store.tables import members, sessions, tokens, users

_TOKEN = (
    sa.select(
        tokens.c.id.label("token_id"),
        tokens.c.project_id,
        tokens.c.role.label("most"),
        tokens.c.expires_us,
        tokens.c.revoked_us,
        users.c.id.label("user_id"),
        users.c.name,
        users.c.is_admin,
        users.c.disabled,
    )
    .join(users, users.c.id == tokens.c.user_id)
    .where(tokens.c.hash == sa.bindparam("hash"))
)
_SESSION = sa.select(sessions).where(sessions.c.hash == sa.bindparam("hash"))
_MEMBER = sa.select(members.c.project_id, members.c.role).where(members.c.user_id == sa.bindparam("user_id"))
_USER = sa.select(users).where(users.c.id == sa.bindparam("user_id"))
_BY_ID = sa.select(tokens.c.hash).where(tokens.c.id == sa.bindparam("token_id"))


def of_token(connection: sa.Connection, hashed: str, now_us: int) -> Principal:
    """Return whose token it is.

    Raises:
        UnknownError: it is nobody's, was revoked or has expired, or its user is disabled. Which of these is not said
            to who presents it.
    """
    row = connection.execute(_TOKEN, {"hash": hashed}).mappings().first()
    if row is None or row["revoked_us"] is not None or row["disabled"]:
        raise _unknown()
    if row["expires_us"] is not None and row["expires_us"] <= now_us:
        raise _unknown()
    return _principal(connection, row)


def of_session(connection: sa.Connection, hashed: str, now_us: int) -> Principal:
    """Return who is signed in; a session that a token opened is worth what the token is.

    Raises:
        UnknownError: there is no such session, or no more.
    """
    row = connection.execute(_SESSION, {"hash": hashed}).mappings().first()
    if row is None or row["expires_us"] <= now_us:
        raise _unknown()
    if row["token_id"] is not None:
        token = connection.execute(_BY_ID, {"token_id": row["token_id"]}).scalar_one()
        return of_token(connection, token, now_us)
    user = connection.execute(_USER, {"user_id": row["user_id"]}).mappings().one()
    if user["disabled"]:
        raise _unknown()
    return of_user(connection, user)


def of_user(connection: sa.Connection, user: Any) -> Principal:
    """Return a user with all that it may do."""
    whole = {"user_id": user["id"], "project_id": None, "most": None, "token_id": ""}
    return _principal(connection, dict(user) | whole)


def _principal(connection: sa.Connection, row: Any) -> Principal:
    roles = {project: role for project, role in connection.execute(_MEMBER, {"user_id": row["user_id"]})}
    return Principal(
        row["user_id"],
        row["name"],
        is_admin=row["is_admin"],
        roles=roles,
        project_id=row["project_id"],
        most=row["most"],
        token_id=row["token_id"],
    )


def _unknown() -> UnknownError:
    return UnknownError(
        "the credential is not accepted",
        why="it is not known here, was revoked, or has expired",
        hint="sign in again: `tilth login`",
    )
