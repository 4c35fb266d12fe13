"""Pages of a list: nothing twice, nothing left out, and no cursor that does something else."""

import base64
import json

import pytest
import sqlalchemy as sa

from tilth.control.store.database import Database
from tilth.control.store.paging import page
from tilth.control.store.tables import projects
from tilth.core.errors import InvalidError

ORDER = (projects.c.created_us, projects.c.id)


def fill(database: Database, ids: list[str], at: int = 1) -> None:
    with database.write() as connection:
        rows = [{"id": one, "name": one, "created_us": at, "created_by": "u"} for one in ids]
        connection.execute(projects.insert(), rows)


def pages(database: Database, limit: int, *, newest_first: bool = False, between: object = None) -> list[list[str]]:
    found, cursor = [], ""
    while True:
        with database.read() as connection:
            one = page(connection, sa.select(projects), ORDER, cursor, limit, newest_first=newest_first)
        found.append([row["id"] for row in one.rows])
        if callable(between):
            between()
        if not one.next:
            return found
        cursor = one.next


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 7, 10, 200])
def test_every_row_is_on_one_page(database: Database, limit: int, newest_first: bool) -> None:
    fill(database, [f"a{index}" for index in range(7)])
    fill(database, ["b0", "b1", "b2"], at=2)
    found = pages(database, limit, newest_first=newest_first)
    whole = sorted(sum(found, []), reverse=newest_first)
    assert sum(found, []) == whole and len(set(whole)) == 10 and max(map(len, found)) <= limit


def test_rows_that_come_meanwhile_make_no_other_twice_or_missing(database: Database) -> None:
    fill(database, [f"b{index}" for index in range(6)])
    numbers = iter(range(100))
    found = sum(pages(database, 2, between=lambda: fill(database, [f"a{next(numbers)}"])), [])
    assert [one for one in found if one[0] == "b"] == [f"b{index}" for index in range(6)]


def test_no_rows_are_one_empty_page(database: Database) -> None:
    assert pages(database, 5) == [[]]


@pytest.mark.parametrize("limit", [0, -1, 201, 10**9])
def test_a_limit_out_of_range_is_refused(database: Database, limit: int) -> None:
    with pytest.raises(InvalidError, match="limit"), database.read() as connection:
        page(connection, sa.select(projects), ORDER, "", limit)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    ["x", "%", "é", "AAAA", "[1]", "A" * 10_000, "=" * 4]
    + [encoded(one) for one in ([], [1], [1, "a", 2], [1, None], [1, [2]], [True, "a"], {"a": 1}, "ab", 1, [1.5, "a"])]
    # A database would not compare these, or not take them.
    + [encoded(one) for one in (["a", "a"], [1, 1], [2**63, "a"], [-(10**40), "a"], [1, "\0"], [1, "\ud800"])],
)
def test_a_cursor_that_was_not_made_here_is_refused(database: Database, cursor: str) -> None:
    with pytest.raises(InvalidError, match="cursor"), database.read() as connection:
        page(connection, sa.select(projects), ORDER, cursor, 5)
