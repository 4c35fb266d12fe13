"""Pages of a list: a cursor says behind which row the next page begins, and nothing that a client could use else."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from tilth.core.errors import InvalidError

MOST = 200
DEFAULT = 50
_MOST_CURSOR = 512
Row = TypeVar("Row")
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list in order, and the cursor of the next page, empty at the end."""

    rows: Sequence[Row]
    next: str = ""


def page(
    connection: sa.Connection,
    query: "sa.Select[Any]",
    order: Sequence["sa.ColumnElement[Any]"],
    cursor: str,
    limit: int,
    *,
    newest_first: bool = False,
) -> Page[Any]:
    """Return the rows of `query` behind `cursor` by the columns of `order`, which together tell rows apart.

    Rows that are put in or taken out meanwhile make no other row appear twice or not at all.

    Raises:
        InvalidError: the cursor was not made here for such a list, or the limit is not 1 to `MOST`.
    """
    if not 1 <= limit <= MOST:
        raise InvalidError("`limit` is out of range", why=f"it is {limit}, and may be 1 to {MOST}")
    if cursor:
        after = sa.tuple_(*(sa.literal(value) for value in _key(cursor, order)))
        row = sa.tuple_(*order)
        query = query.where(row < after if newest_first else row > after)
    query = query.order_by(*(column.desc() if newest_first else column.asc() for column in order))
    rows = connection.execute(query.limit(limit + 1)).mappings().all()
    if len(rows) <= limit:
        return Page(rows)
    last = rows[limit - 1]
    return Page(rows[:limit], _cursor(tuple(last[column.name] for column in order)))


def mapped(found: Page[Any], to: Callable[[Any], Row]) -> Page[Row]:
    """Return the same page with something made of each row."""
    return Page([to(row) for row in found.rows], found.next)


def _cursor(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _key(cursor: str, order: Sequence["sa.ColumnElement[Any]"]) -> Key:
    try:
        if len(cursor) > _MOST_CURSOR:
            raise ValueError
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        found = None
    if type(found) is not list or len(found) != len(order) or not all(map(_fits, found, order)):
        raise InvalidError("`cursor` is none of this list", hint="send the `next` of the page before, or none")
    return tuple(found)


def _fits(value: Any, column: "sa.ColumnElement[Any]") -> bool:
    """Return whether a column could hold a value: no database takes every text, or a number of any size."""
    if column.type.python_type is int:
        return type(value) is int and abs(value) < 2**63
    return type(value) is str and value.isprintable()
