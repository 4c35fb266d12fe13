"""Who may call which endpoints, as a file of hashed tokens that the server of endpoints follows."""

import os
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from tilth.client.errors import UnknownError
from tilth.control.access import ROLES, Principal
from tilth.control.records import principals
from tilth.control.store.tables import projects, tokens

#: A server takes no more than this many lines.
MOST = 9_000
_NOBODY = "# tilth: no tokens\n"


def lines(connection: sa.Connection, now_us: int) -> tuple[list[str], int | None]:
    """Return the lines of the file, newest tokens first, and when the first of them expires, None for never."""
    live = sa.select(tokens.c.id, tokens.c.hash, tokens.c.expires_us).where(tokens.c.revoked_us.is_(None))
    live = live.where(tokens.c.expires_us.is_(None) | (tokens.c.expires_us > now_us))
    names = {row.id: row.name for row in connection.execute(sa.select(projects.c.id, projects.c.name))}
    made, until = [], None
    for row in connection.execute(live.order_by(tokens.c.id.desc()).limit(MOST)):
        try:
            scope = _scope(principals.of_token(connection, row.hash, now_us), names)
        except UnknownError:
            continue
        if scope:
            made.append(f"sha256:{row.hash} {scope} {row.id}")
        if row.expires_us is not None:
            until = min(until or row.expires_us, row.expires_us)
    return made, until


def _scope(asks: Principal, names: dict[str, str]) -> str:
    if asks.rules:
        return "infer"
    if asks.is_admin and asks.project_id is None:
        return "infer"
    projects_of = [asks.project_id] if asks.project_id is not None else sorted(asks.roles)
    allowed = [names[one] for one in projects_of if one in names and asks.role_in(one) in ROLES]
    return ",".join(f"infer@{name}.*" for name in allowed)


def write(path: Path, made: Iterable[str]) -> None:
    """Replace the file in one step; only its owner can read or write it."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write("".join(f"{line}\n" for line in made) or _NOBODY)
    beside.replace(path)
