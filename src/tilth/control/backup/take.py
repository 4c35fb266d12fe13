"""Takes a backup: one snapshot of the rows, then every blob that they need, then the word that it is whole."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy as sa

from tilth.bridge.disk import clear_errors, discard, new_file, put, sibling, sync_folder
from tilth.client.progress import Progress, silent
from tilth.control.backup.folder import backup_in, held
from tilth.control.backup.form import LEFT_OUT, NAME, Manifest, TableFile, encode
from tilth.control.store.snapshot import revision, snapshot
from tilth.control.store.tables import META, blobs, uses
from tilth.control.store.upgrade import newest_revision
from tilth.core.errors import MissingError, RefusedError, UnavailableError, UntrustedError
from tilth.core.version import VERSION
from tilth.ports.blob_store import BlobStore

_TRIES = 5
_ROWS_AT_A_TIME = 1000


def take(
    store: str,
    source: BlobStore,
    folder: Path,
    opened: Callable[[], BlobStore],
    *,
    alone: bool,
    progress: Progress = silent,
) -> Manifest:
    """Write a backup into `folder`, whose blobs `opened` opens; one that is there is replaced when this is whole.

    `store` is the address of the database and `alone` says that no process has it. Blobs that the folder has already
    are not copied again, and those that nothing needs any more are removed. Interrupted, it leaves what was copied, and
    the backup that was there before.

    Raises:
        MissingError: there is no store.
        RefusedError: the folder is not for backups, or another backup is being written there.
        UntrustedError: a blob holds other bytes than its digest says, or is gone.
        UnavailableError: the store does not answer, or there is no room.
    """
    with held(folder), clear_errors(folder, 0):
        before, target = backup_in(folder), opened()
        for _ in range(_TRIES):
            with _rows_folder(folder) as rows:
                manifest, wanted = _rows(store, alone, folder / rows, rows, progress)
                gone = _copied(source, target, folder, wanted, progress)
                if gone is None:
                    _write_down(folder, manifest)
                    break
            _check_gone(store, alone, gone)
        else:
            raise UnavailableError(
                "the backup could not be taken",
                why=f"versions were removed while it was, {_TRIES} times",
                hint="take it at a quieter time",
            )
        _tidy(folder, target, manifest.rows, wanted)
        progress("done", 1, 1, "" if before is None else "the one before is replaced")
        return manifest


def _rows(store: str, alone: bool, folder: Path, name: str, progress: Progress) -> tuple[Manifest, dict[str, int]]:
    """Write all rows of one moment, and return what the manifest says and the blobs that they need."""
    made: dict[str, TableFile] = {}
    with snapshot(store, alone=alone) as connection:
        has = revision(connection)
        if has != newest_revision():
            raise RefusedError(
                "the store is of another version of Tilth",
                why=f"its tables are of revision `{has}`, and this version has `{newest_revision()}`",
                hint="take the backup with the version that runs it, or start that store with this version once",
            )
        tables = [one for one in META.sorted_tables if one.name not in LEFT_OUT]
        for number, table in enumerate(tables):
            progress("rows", number, len(tables), table.name)
            made[table.name] = _table(connection, table, folder / f"{table.name}.jsonl")
        needed = sa.select(blobs.c.digest, blobs.c.size_bytes).where(_needed())
        wanted = {row[0]: row[1] for row in connection.execute(needed)}
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sync_folder(folder)
    return Manifest(VERSION, has, at, name, made, len(wanted), sum(wanted.values())), wanted


def _needed() -> sa.ColumnElement[bool]:
    return sa.exists().where(uses.c.project_id == blobs.c.project_id, uses.c.digest == blobs.c.digest)


def _table(connection: sa.Connection, table: sa.Table, path: Path) -> TableFile:
    query = sa.select(table).order_by(*table.primary_key)
    if table is blobs:
        # What no version needs may be swept away at any time.
        query = query.where(_needed())
    rows = size = 0
    state = hashlib.sha256()
    with new_file(path) as file:
        for row in connection.execution_options(yield_per=_ROWS_AT_A_TIME).execute(query).mappings():
            line = _line(dict(row))
            state.update(line)
            file.write(line)
            rows, size = rows + 1, size + len(line)
        file.flush()
        os.fsync(file.fileno())
    return TableFile(rows, size, state.hexdigest())


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _copied(
    source: BlobStore, target: BlobStore, folder: Path, wanted: dict[str, int], progress: Progress
) -> str | None:
    """Copy the blobs that are not there yet, each hashed on its way; return one that has gone, None for none."""
    left = {digest: size for digest, size in wanted.items() if target.size(digest) != size}
    whole, done = sum(left.values()), 0
    for digest, size in left.items():
        progress("blobs", done, whole, f"blob {digest[:12]}")
        if source.size(digest) is None:
            return digest
        path = folder / f"blob-{token_hex(8)}.tmp"
        try:
            copy(source, digest, size, path)
            target.adopt(path, digest)
        except MissingError:
            return digest
        finally:
            discard(path)
        done += size
    progress("blobs", whole, whole)
    return None


def copy(source: BlobStore, digest: str, size_bytes: int, path: Path) -> None:
    """Write a blob into a new file, and return when its bytes are those that its digest names.

    Raises:
        MissingError: it is not there.
        UntrustedError: it holds other bytes.
    """
    state, count = hashlib.sha256(), 0
    with new_file(path) as file:
        for block in source.read(digest):
            state.update(block)
            count += len(block)
            if count > size_bytes:
                break
            file.write(block)
    if count != size_bytes or state.hexdigest() != digest:
        raise UntrustedError(
            f"blob {digest[:12]} in `{source.place}` holds other bytes than its digest says",
            why=f"it has {count} bytes of {size_bytes}" if count != size_bytes else "a bit of it is another",
            hint="the disk may be failing; put back that blob from an older backup, or push its bundle again",
        )


def _check_gone(store: str, alone: bool, digest: str) -> None:
    """Return when nothing needs a blob any more that could not be copied.

    Raises:
        UntrustedError: something does: the store of blobs is damaged.
    """
    with snapshot(store, alone=alone) as connection:
        still = connection.execute(sa.select(uses.c.version_id).where(uses.c.digest == digest).limit(1)).first()
    if still is not None:
        raise UntrustedError(
            f"blob {digest[:12]} is gone from the store of blobs",
            why="a version needs it",
            hint="put it back from an older backup, or push its bundle again",
        )


@contextmanager
def _rows_folder(folder: Path) -> Iterator[str]:
    name = f"rows-{token_hex(8)}"
    (folder / name).mkdir(mode=0o700)
    yield name


def _write_down(folder: Path, manifest: Manifest) -> None:
    with sibling(folder / NAME, folder=False) as beside:
        with beside.open("wb") as file:
            file.write(encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(folder)
        put(beside, folder / NAME)


def _tidy(folder: Path, target: BlobStore, rows: str, wanted: dict[str, int]) -> None:
    """Remove what the backup does not name: rows of earlier ones, and blobs that nothing needs."""
    for path in folder.iterdir():
        if path.name.startswith("rows-") and path.name != rows and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name.startswith("blob-") and path.name.endswith(".tmp"):
            discard(path)
    for digest, _ in list(target.walk()):
        if digest not in wanted:
            target.drop(digest)
