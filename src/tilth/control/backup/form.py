"""What a backup's `backup.json` says, and what a row of it may be; pure.

A backup is a folder: `backup.json`, `rows-ID/TABLE.jsonl` with a row in JSON per line, and `blobs/`, which is a blob
store. `backup.json` is written last and names the folder of rows with the digest of every file in it, so that what is
not in it does not count.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from tilth.core.errors import InvalidError, UntrustedError

SCHEMA = "tilth.backup/1"
NAME = "backup.json"
MOST_MANIFEST_BYTES, MOST_LINE_BYTES = 1 << 20, 32 << 20
_MOST = 1 << 50
#: What is of the moment: sessions of browsers, uploads on their way, what the last look found, answers to be repeated.
LEFT_OUT = frozenset(("sessions", "uploads", "standings", "repeats"))
_ROWS = re.compile(r"rows-[0-9a-f]{16}")
_TABLE = re.compile(r"[a-z]{1,32}")
_REVISION = re.compile(r"[0-9a-z]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TableFile:
    """A table in a backup: how many rows, how long its file is, and what it hashes to."""

    rows: int
    size_bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. `revision` is that of the tables, `rows` the folder that they are in."""

    tilth: str
    revision: str
    made_at: str
    rows: str
    tables: Mapping[str, TableFile]
    blobs: int
    blob_bytes: int


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of `backup.json`."""
    return json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=2, sort_keys=True).encode() + b"\n"


def decode(data: bytes) -> Manifest:
    """Return what a `backup.json` says.

    Raises:
        InvalidError: it is none, or of a later form.
    """
    try:
        told = json.loads(data)
        if told.pop("schema") != SCHEMA:
            raise InvalidError("the backup was made by a newer Tilth", hint="restore it with that version")
        tables = {_matched(_TABLE, name): _table(one) for name, one in told.pop("tables").items()}
        made = Manifest(tables=tables, **told)
        _matched(_ROWS, made.rows)
        _matched(_REVISION, made.revision)
        if not isinstance(made.tilth, str) or not isinstance(made.made_at, str):
            raise ValueError
        _count(made.blobs)
        _count(made.blob_bytes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidError("this is not a backup", why=f"its `{NAME}` is not understood") from None
    return made


def checked_row(line: bytes, table: sa.Table, where: str) -> dict[str, Any]:
    """Return the row that a line holds, each value of the type of its column.

    Raises:
        UntrustedError: it is none of that table.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged(where, "it is not JSON") from None
    if not isinstance(row, dict) or set(row) != set(table.c.keys()):
        raise _damaged(where, "it has other columns than the table")
    for column in table.columns:
        if not _fits(row[column.key], column):
            raise _damaged(where, f"column `{column.key}` holds another kind of value")
    return row


def _fits(value: Any, column: sa.Column[Any]) -> bool:
    kind = column.type
    if value is None:
        return bool(column.nullable)
    if isinstance(kind, sa.JSON):
        return True
    if isinstance(kind, sa.Boolean):
        return isinstance(value, bool)
    if isinstance(kind, sa.Integer):
        return type(value) is int and abs(value) < 1 << 63
    length = getattr(kind, "length", None)
    return isinstance(value, str) and (length is None or len(value) <= length) and "\0" not in value


def _table(told: Any) -> TableFile:
    made = TableFile(**told)
    _matched(_DIGEST, made.digest)
    _count(made.rows)
    _count(made.size_bytes)
    return made


def _matched(pattern: re.Pattern[str], text: Any) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError
    return text


def _count(value: Any) -> None:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError


def _damaged(where: str, why: str) -> UntrustedError:
    return UntrustedError(f"{where} of the backup is not a row", why=why, hint="take another backup")
