"""Answers to requests with an idempotency key, for whoever sends one again."""

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.control.store.tables import repeats

#: How long an answer is kept.
KEPT_US = 24 * 3600 * 1_000_000
_FIND = sa.select(repeats).where(repeats.c.user_id == sa.bindparam("user_id"), repeats.c.key == sa.bindparam("key"))


def find(connection: sa.Connection, user_id: str, key: str, request: str, now_us: int) -> tuple[int, str] | None:
    """Return status and body of the answer to the same request, None when there was none.

    `request` is a digest of what was asked.

    Raises:
        ConflictError: the key was used for another request.
    """
    row = connection.execute(_FIND, {"user_id": user_id, "key": key}).mappings().first()
    if row is None or row["created_us"] < now_us - KEPT_US:
        return None
    if row["request"] != request:
        raise ConflictError(
            "this idempotency key was used for another request",
            why="a key names one request, so that it can be sent again",
            hint="make a new key for each new request",
        )
    return row["status"], row["body"]


def keep(connection: sa.Connection, user_id: str, key: str, request: str, status: int, body: str, now_us: int) -> None:
    """Keep an answer, in the transaction of what it answers."""
    connection.execute(repeats.delete().where(repeats.c.user_id == user_id, repeats.c.key == key))
    row = {"user_id": user_id, "key": key, "request": request, "status": status, "body": body, "created_us": now_us}
    connection.execute(repeats.insert().values(row))


def sweep(connection: sa.Connection, now_us: int) -> None:
    """Forget answers that were kept long enough."""
    connection.execute(repeats.delete().where(repeats.c.created_us < now_us - KEPT_US))
