"""Checks a backup and puts it back.

What is checked, in this order; the numbers are repeated in the code:

1. `backup.json` is understood, and its tables are of a revision that this version knows;
2. every table's file hashes to what `backup.json` says, and each line is a row of that table;
3. the audit log is a whole chain that ends in the hash that the backup notes;
4. every blob that a version needs is in the backup, and hashes to its digest.

What a backup says is then believed: whoever can write one that passes can make themselves an administrator.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from tilth.bridge.disk import clear_errors, discard, sync_folder
from tilth.client.progress import Progress, silent
from tilth.control.backup.folder import known_backup, lines
from tilth.control.backup.form import LEFT_OUT, Manifest, checked_row
from tilth.control.backup.take import copy
from tilth.control.home import Home
from tilth.control.store import audit
from tilth.control.store.database import parsed, unavailable
from tilth.control.store.tables import META, blobs, chain, events, uses
from tilth.control.store.upgrade import begin_at, upgrade
from tilth.core.digest import checked_digest
from tilth.core.errors import InvalidError, RefusedError, UntrustedError
from tilth.ports.blob_store import BlobStore

_AT_A_TIME = 500


def check(folder: Path, source: BlobStore, *, progress: Progress = silent) -> Manifest:
    """Read all of a backup and return what it says when every byte is what was written.

    Raises:
        MissingError: there is no whole backup.
        InvalidError: it is of a newer version.
        UntrustedError: it was damaged or changed.
    """
    manifest = known_backup(folder)  # 1
    wanted = _checked_rows(folder, manifest, progress)
    done, whole = 0, sum(wanted.values())
    for digest, size in wanted.items():
        progress("blobs", done, whole, f"blob {digest[:12]}")
        _check_blob(source, digest, size)  # 4
        done += size
    progress("blobs", whole, whole)
    return manifest


def restore(
    folder: Path, source: BlobStore, home: Home, store: str, target: BlobStore, *, progress: Progress = silent
) -> Manifest:
    """Put a backup back into an empty home. The caller holds the home.

    Blobs come first and all rows in one step at the end: interrupted, it leaves no store, and goes on when it is run
    again.

    Raises:
        MissingError: there is no whole backup.
        RefusedError: there is a store already.
        UntrustedError: the backup was damaged or changed.
        UnavailableError: the store does not answer, or there is no room.
    """
    manifest = known_backup(folder)  # 1
    url = parsed(store)
    lite = url.get_backend_name() == "sqlite"
    path = Path(url.database or "") if lite else None
    if path is not None and path.exists():
        raise _in_use(f"there is a store `{path}`")
    wanted = _checked_rows(folder, manifest, progress)
    done, whole = 0, sum(wanted.values())
    with clear_errors(home.folder, whole):
        for digest, size in wanted.items():
            progress("blobs", done, whole, f"blob {digest[:12]}")
            _bring(source, target, digest, size, home.uploads)
            done += size
        progress("blobs", whole, whole)
        beside = path.with_name(f"{path.name}.restoring") if path is not None else None
        if beside is not None:
            _remove_lite(beside)
            url = url.set(database=str(beside))
        _loaded(url, folder, manifest, progress)
        if beside is not None and path is not None:
            beside.replace(path)
            sync_folder(path.parent)
    return manifest


def _checked_rows(folder: Path, manifest: Manifest, progress: Progress) -> dict[str, int]:
    """Check all rows (2, 3), and return the blobs that versions need, with their sizes."""
    known = {table.name: table for table in META.sorted_tables if table.name not in LEFT_OUT}
    if set(manifest.tables) - set(known):
        raise InvalidError("the backup has tables that this version does not know", hint="use a newer Tilth")
    has: dict[tuple[str, str], int] = {}
    needed: set[tuple[str, str]] = set()
    ends: list[dict[str, Any]] = []
    for number, name in enumerate(sorted(manifest.tables)):
        progress("rows", number, len(manifest.tables), name)
        if name == events.name:
            continue
        for row in _rows(folder, manifest, known[name]):
            if name == blobs.name:
                has[row["project_id"], checked_digest(row["digest"])] = row["size_bytes"]
            elif name == uses.name:
                needed.add((row["project_id"], checked_digest(row["digest"])))
            elif name == chain.name:
                ends.append(row)
    _check_chain(folder, manifest, ends)  # 3
    if needed - set(has):
        raise UntrustedError("the backup is not whole", why="a version needs a blob that it does not name")
    return {digest: size for (_, digest), size in sorted(has.items())}


def _rows(folder: Path, manifest: Manifest, table: sa.Table) -> Iterator[dict[str, Any]]:
    found = lines(folder / manifest.rows, table.name, manifest.tables[table.name])
    for number, line in enumerate(found, 1):
        yield checked_row(line, table, f"line {number} of `{table.name}.jsonl`")  # 2


def _check_chain(folder: Path, manifest: Manifest, ends: list[dict[str, Any]]) -> None:
    if events.name not in manifest.tables or len(ends) != 1:
        raise UntrustedError("the backup is not whole", why="it has no audit log, or not one end of it")
    found = audit.check((audit.Event(**row) for row in _rows(folder, manifest, events)), ends[0]["hash"])
    if manifest.tables[events.name].rows != ends[0]["seq"] or (not ends[0]["seq"] and found != audit.ORIGIN):
        raise UntrustedError("the audit log of the backup is not whole", why="it has another number of events")


def _check_blob(store: BlobStore, digest: str, size_bytes: int) -> None:
    state, count = hashlib.sha256(), 0
    if store.size(digest) is None:
        raise UntrustedError(f"blob {digest[:12]} is not in the backup", hint="use another backup")
    for block in store.read(digest):
        state.update(block)
        count += len(block)
    if count != size_bytes or state.hexdigest() != digest:
        raise UntrustedError(
            f"blob {digest[:12]} of the backup holds other bytes", why="it was damaged", hint="use another backup"
        )


def _bring(source: BlobStore, target: BlobStore, digest: str, size_bytes: int, scratch: Path) -> None:
    """Copy a blob, or check one that an interrupted restore has left (4)."""
    if target.size(digest) is not None:
        _check_blob(target, digest, size_bytes)
        return
    if source.size(digest) is None:
        raise UntrustedError(f"blob {digest[:12]} is not in the backup", hint="use another backup")
    path = scratch / f"restore-{token_hex(8)}"
    try:
        copy(source, digest, size_bytes, path)
        target.adopt(path, digest)
    finally:
        discard(path)


def _loaded(url: sa.URL, folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Make the tables and fill them, in one transaction."""
    engine = sa.create_engine(url)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _prepare)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            if sa.inspect(connection).get_table_names():
                raise _in_use("the database has tables")
            if not begin_at(connection, manifest.revision):  # 1
                raise InvalidError(
                    "the backup was made by a newer Tilth",
                    why=f"its tables are of revision `{manifest.revision}`",
                    hint=f"restore it with Tilth {manifest.tilth}",
                )
            _fill(connection, folder, manifest, progress)
            upgrade(connection)
            audit.check_all(connection, *audit.end(connection))
    except IntegrityError as error:
        raise UntrustedError(
            "the rows of the backup do not fit one another", why=str(error.orig).splitlines()[0][:300]
        ) from None
    except SQLAlchemyError as error:
        raise unavailable(url, error) from None
    finally:
        engine.dispose()


def _fill(connection: sa.Connection, folder: Path, manifest: Manifest, progress: Progress) -> None:
    there = sa.MetaData()
    there.reflect(connection)
    tables = [table for table in there.sorted_tables if table.name in manifest.tables]
    for number, table in enumerate(tables):
        progress("store", number, len(tables), table.name)
        connection.execute(table.delete())
        held: list[dict[str, Any]] = []
        for row in _rows(folder, manifest, META.tables[table.name]):
            held.append(row)
            if len(held) == _AT_A_TIME:
                connection.execute(META.tables[table.name].insert(), held)
                held = []
        if held:
            connection.execute(META.tables[table.name].insert(), held)
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise UntrustedError("the backup is not whole", why="a row names another that is not there")


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    for line in ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {line}")


def _remove_lite(path: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        discard(path.with_name(path.name + end))


def _in_use(why: str) -> RefusedError:
    return RefusedError(
        "there is something where the backup is to go", why=why, hint="name an empty home, or an empty database"
    )
