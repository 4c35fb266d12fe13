"""All rows of a store as they were at one moment, while others go on writing."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import SQLAlchemyError

from tilth.control.store.database import parsed, unavailable
from tilth.core.errors import MissingError


@contextlib.contextmanager
def snapshot(address: str, *, alone: bool) -> Iterator[sa.Connection]:
    """Yield a connection that sees one moment and changes nothing.

    `alone` says that no other process has the SQLite file open, and that none can while this one goes on: then it
    may bring in what a killed process left beside the file. Otherwise it is one that only reads.

    Raises:
        MissingError: there is no store.
        UnavailableError: it cannot be opened.
    """
    url = parsed(address)
    lite = url.get_backend_name() == "sqlite"
    if lite and not Path(url.database or "").exists():
        raise MissingError(f"there is no store `{url.database}`", hint="name the home with `--home`")
    uri = f"{Path(url.database or '').absolute().as_uri()}?mode={'rw' if alone else 'ro'}" if lite else ""
    if lite:
        engine = sa.create_engine(
            "sqlite+pysqlite://", creator=lambda: sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
        )
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    else:
        engine = sa.create_engine(url, isolation_level="REPEATABLE READ", connect_args={"connect_timeout": 10})
    try:
        with engine.connect().execution_options(postgresql_readonly=True) as connection:
            yield connection
    except SQLAlchemyError as error:
        raise unavailable(url, error) from None
    finally:
        engine.dispose()


def revision(connection: sa.Connection) -> str:
    """Return which tables a store has, empty for none."""
    return MigrationContext.configure(connection).get_current_revision() or ""
