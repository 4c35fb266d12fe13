"""Which blobs a project has, which are on their way, and which nobody needs."""

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from tilth.control.change import Change
from tilth.control.failure import BusyError
from tilth.control.row_id import new_id
from tilth.control.store.tables import blobs, chain, uploads, uses
from tilth.core.errors import MissingError

_AT_A_TIME = 500
#: Uploads of a project at a time.
MOST_UPLOADS = 256
#: How long a blob that no version needs is kept: as long as an upload may take.
UNUSED_US = 24 * 3600 * 1_000_000
_FIND = sa.select(blobs.c.size_bytes).where(
    blobs.c.project_id == sa.bindparam("project_id"), blobs.c.digest == sa.bindparam("digest")
)


def size(connection: sa.Connection, project_id: str, digest: str) -> int | None:
    """Return the bytes of a blob that a project has, None when it has not."""
    found: int | None = connection.execute(_FIND, {"project_id": project_id, "digest": digest}).scalar()
    return found


def sizes(connection: sa.Connection, project_id: str, digests: Iterable[str]) -> dict[str, int]:
    """Return the bytes of those blobs that a project has, by digest."""
    made: dict[str, int] = {}
    wanted = list(digests)
    for start in range(0, len(wanted), _AT_A_TIME):
        some = wanted[start : start + _AT_A_TIME]
        query = sa.select(blobs.c.digest, blobs.c.size_bytes)
        rows = connection.execute(query.where(blobs.c.project_id == project_id, blobs.c.digest.in_(some)))
        made.update((row[0], row[1]) for row in rows)
    return made


def keep(change: Change, project: sa.RowMapping, digest: str, size_bytes: int, here: bool) -> None:
    """Note that a project has a blob; `here` says whether its store has it, asked within this transaction.

    Raises:
        BusyError: it was swept away meanwhile.
    """
    if not here:
        raise BusyError(f"blob {digest[:12]} was swept away meanwhile", hint="upload it again")
    connection = change.connection
    if size(connection, project["id"], digest) is None:
        row = {"project_id": project["id"], "digest": digest, "size_bytes": size_bytes, "created_us": change.at_us}
        connection.execute(blobs.insert().values(row))
        change.tell("blob.keep", f"{project['name']}/blobs/{digest}", project["id"], size_bytes=size_bytes)
    same = (uploads.c.project_id == project["id"]) & (uploads.c.digest == digest)
    connection.execute(uploads.delete().where(same))


def begin(change: Change, project: sa.RowMapping, digest: str, size_bytes: int) -> str:
    """Note that a blob is on its way, and return the upload's id: of the one that was begun, if there is one.

    Raises:
        BusyError: too many of the project are.
    """
    connection = change.connection
    own = uploads.c.project_id == project["id"]
    same = sa.select(uploads.c.id).where(own, uploads.c.digest == digest, uploads.c.size_bytes == size_bytes)
    found: str | None = connection.execute(same).scalar()
    if found is not None:
        return found
    count = connection.execute(sa.select(sa.func.count()).select_from(uploads).where(own)).scalar_one()
    if count >= MOST_UPLOADS:
        raise BusyError(
            f"{count} uploads are on their way", why=f"a project may have {MOST_UPLOADS}", hint="finish some"
        )
    row = {"id": new_id(), "project_id": project["id"], "digest": digest, "size_bytes": size_bytes} | change.stamp()
    connection.execute(uploads.insert().values(row))
    change.tell("upload.begin", f"{project['name']}/uploads/{row['id']}", project["id"], digest=digest)
    return str(row["id"])


def upload(connection: sa.Connection, project_id: str, upload_id: str) -> sa.RowMapping:
    """Return an upload of a project.

    Raises:
        MissingError: there is none.
    """
    query = sa.select(uploads).where(uploads.c.id == upload_id, uploads.c.project_id == project_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise MissingError(
            "there is no such upload", why="it is finished, was given up, or never was", hint="begin it again"
        )
    return row


def give_up(change: Change, project: sa.RowMapping, upload_id: str) -> None:
    """Forget an upload.

    Raises:
        MissingError: there is none.
    """
    upload(change.connection, project["id"], upload_id)
    change.connection.execute(uploads.delete().where(uploads.c.id == upload_id))
    change.tell("upload.give-up", f"{project['name']}/uploads/{upload_id}", project["id"])


def old_uploads(connection: sa.Connection, before_us: int) -> list[str]:
    """Forget the uploads that were begun before a time, and return their ids."""
    key = uploads.c.created_us < before_us
    found = list(connection.execute(sa.select(uploads.c.id).where(key)).scalars())
    connection.execute(uploads.delete().where(key))
    return found


def upload_ids(connection: sa.Connection) -> set[str]:
    """Return the ids of all uploads that are on their way."""
    return set(connection.execute(sa.select(uploads.c.id)).scalars())


def forget_unused(connection: sa.Connection, before_us: int, most: int = _AT_A_TIME) -> list[str]:
    """Forget blobs that no version of their project needs and that are older than a time; return their digests."""
    used = sa.exists().where(uses.c.project_id == blobs.c.project_id, uses.c.digest == blobs.c.digest)
    query = sa.select(blobs.c.project_id, blobs.c.digest).where(blobs.c.created_us < before_us, ~used).limit(most)
    found = list(connection.execute(query))
    for project_id, digest in found:
        connection.execute(blobs.delete().where(blobs.c.project_id == project_id, blobs.c.digest == digest))
    return [digest for _, digest in found]


def is_kept(connection: sa.Connection, digest: str) -> bool:
    """Return whether some project has a blob, so that no other transaction can note it until this one ends."""
    connection.execute(sa.select(chain.c.seq).with_for_update())
    return connection.execute(sa.select(blobs.c.digest).where(blobs.c.digest == digest).limit(1)).first() is not None


def all_of(connection: sa.Connection) -> Iterator[tuple[str, int]]:
    """Yield digest and size of every blob of any project, each once, in order."""
    after = ""
    query = sa.select(blobs.c.digest, sa.func.max(blobs.c.size_bytes)).group_by(blobs.c.digest)
    while rows := list(connection.execute(query.where(blobs.c.digest > after).order_by(blobs.c.digest).limit(1000))):
        yield from ((row[0], row[1]) for row in rows)
        after = rows[-1][0]
