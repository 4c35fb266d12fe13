"""The store: what was kept is there, what failed is not, and a reader never changes anything."""

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tilth.control.store.database import Database
from tilth.control.store.tables import META, projects
from tilth.core.errors import InvalidError, TilthError, UnavailableError


def row(name: str) -> dict[str, object]:
    return {"id": name, "name": name, "created_us": 1, "created_by": "u1"}


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(sa.select(projects.c.name)).scalars())


def test_what_was_kept_is_there_when_it_is_opened_again(address: str) -> None:
    first = Database(address)
    with first.write() as connection:
        connection.execute(projects.insert().values(row("a")))
    first.close()
    again = Database(address)
    assert names(again) == ["a"]
    again.close()


def test_a_block_that_raises_keeps_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(projects.insert().values(row("a")))
        raise ZeroDivisionError
    assert names(database) == []


def test_a_reader_cannot_change_anything(database: Database) -> None:
    with database.read() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.execute(projects.insert().values(row("a")))
    assert names(database) == []


def test_a_row_without_what_it_refers_to_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        members = META.tables["members"]
        connection.execute(
            members.insert().values(project_id="x", user_id="y", role="viewer", created_us=1, created_by="u")
        )


def test_two_that_read_and_change_a_row_do_not_lose_one_of_the_changes(database: Database) -> None:
    with database.write() as connection:
        connection.execute(projects.insert().values(row("a")))

    def grow() -> None:
        for _ in range(20):
            with database.write() as connection:
                found = connection.execute(sa.select(projects.c.rev).with_for_update()).scalar_one()
                connection.execute(projects.update().values(rev=found + 1))

    threads = [threading.Thread(target=grow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(sa.select(projects.c.rev)).scalar_one() == 81


def test_the_tables_are_those_that_the_migrations_make(database: Database) -> None:
    """A column that is in one of the two alone would be missing for half of the users."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.write() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, META) == []


def test_a_store_of_a_newer_version_is_refused_and_left_alone(address: str) -> None:
    made = Database(address)
    with made.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'of_the_future'"))
    made.close()
    with pytest.raises(UnavailableError, match="newer"):
        Database(address)


@pytest.mark.parametrize(
    "address", ["", "sqlite://", "sqlite:///:memory:", "mysql://x/y", "not an address", "/etc/passwd"]
)
def test_what_is_no_store_is_refused(address: str) -> None:
    with pytest.raises(InvalidError):
        Database(address)


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(TilthError):
        Database(f"sqlite:///{tmp_path}/x.db")
    assert (tmp_path / "x.db").read_bytes() == b"something else entirely" * 100


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(UnavailableError) as caught:
        Database("postgresql://u:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)


def test_sqlite_is_written_by_one_connection_that_syncs(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with database.write() as connection:
        told = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
    assert told == {"journal_mode": "wal", "synchronous": 2}
    with database.read() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        with pytest.raises(sqlite3.OperationalError):
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            raise sqlite3.OperationalError  # a reader's checkpoint does nothing or is refused
    database.close()


def test_a_rule_that_was_looked_at_holds_until_the_change_is_kept(database: Database) -> None:
    """Two that each leave when the other stays must not both leave."""
    with database.write() as connection:
        connection.execute(projects.insert(), [row("a"), row("b")])
    both = threading.Barrier(2)

    def leave(name: str) -> None:
        both.wait()
        with database.write() as connection:
            if connection.execute(sa.select(projects.c.id).where(projects.c.id != name)).first():
                connection.execute(projects.delete().where(projects.c.id == name))

    threads = [threading.Thread(target=leave, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 1


def test_two_that_open_an_empty_store_at_once_make_its_tables_once(address: str) -> None:
    made: list[Database] = []
    threads = [threading.Thread(target=lambda: made.append(Database(address))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [names(one) for one in made] == [[], [], []]
    for one in made:
        one.close()


def test_a_reader_of_sqlite_sees_one_state_in_all_its_statements(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    query = sa.select(sa.func.count()).select_from(projects)
    with database.read() as connection:
        before = connection.execute(query).scalar()
        with database.write() as other:
            other.execute(projects.insert().values(row("a")))
        assert connection.execute(query).scalar() == before == 0
    assert names(database) == ["a"]
    database.close()
