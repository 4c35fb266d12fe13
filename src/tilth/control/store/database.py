"""A database that is opened once: SQLite with one connection that writes, or PostgreSQL with several.

What `write` yields is one transaction, which is kept when the block ends and dropped when it raises. What it has kept
survives a power cut. In both databases one transaction writes at a time, whichever process it is of: a rule that was
looked at in it, such as that somebody else still administers this installation, holds until it ends.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tilth.control.store.upgrade import upgrade
from tilth.core.errors import InvalidError, UnavailableError

_READERS = 8
_WAIT_S = 10.0
#: Names the lock that a transaction of PostgreSQL holds while it writes: "tilth" in ASCII.
_TURN = 0x74696C7468


class Database:
    """A store of rows, brought up to the tables of this version.

    Raises:
        InvalidError: the address is not one of SQLite or PostgreSQL.
        UnavailableError: it cannot be opened, or a newer Tilth made it.
    """

    def __init__(self, address: str) -> None:
        url = parsed(address)
        self._lock = threading.Lock()
        self._lite = url.get_backend_name() == "sqlite"
        self._writer, self._reader = _lite_engines(url) if self._lite else _postgres_engines(url)
        try:
            with self.write() as connection:
                upgrade(connection)
        except SQLAlchemyError as error:
            self.close()
            raise unavailable(url, error) from None
        except BaseException:
            self.close()
            raise

    @property
    def writers(self) -> int:
        """How many transactions can write side by side."""
        return 1 if self._lite else _READERS

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction of its own."""
        # SQLite has one that writes: others wait here rather than for its lock, in the order in which they came.
        with self._lock if self._lite else contextlib.nullcontext(), self._writer.begin() as connection:
            if not self._lite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN})")
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection that cannot change anything.

        On SQLite it sees what was kept when its first statement ran; on PostgreSQL, each statement what is kept then.
        """
        with self._reader.connect() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._reader.dispose()
        self._writer.dispose()


def parsed(address: str) -> URL:
    """Return the address of a database with the driver that is used for it.

    Raises:
        InvalidError: it is not one of SQLite or PostgreSQL.
    """
    try:
        url = make_url(address)
    except sa.exc.ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidError(
            "this is not the address of a database",
            why="the store is SQLite or PostgreSQL",
            hint="give one such as sqlite:////var/lib/tilth/store.db or postgresql://user@host/tilth",
        )
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if not url.database or url.database == ":memory:":
        raise InvalidError("the store has to be a file", why="a database in memory ends with the process")
    return url.set(drivername="sqlite+pysqlite")


def _lite_engines(url: URL) -> tuple[sa.Engine, sa.Engine]:
    path = Path(url.database or "")
    common: dict[str, Any] = {"check_same_thread": False, "timeout": _WAIT_S}
    writer = sa.create_engine(url, pool_size=1, max_overflow=0, poolclass=sa.QueuePool, connect_args=common)
    # A reader that may write would also checkpoint; before SQLite 3.51.3 two of those can break a file in WAL mode.
    address = f"{path.absolute().as_uri()}?mode=ro"
    reader = sa.create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _read_only(address, common),
        poolclass=sa.QueuePool,
        pool_size=_READERS,
        max_overflow=16,
    )
    sa.event.listen(writer, "connect", _prepare)
    # The driver's own transactions begin too late to keep two readers of a row from both changing it.
    sa.event.listen(writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    # Without it, each statement of a reader would see what was kept by then.
    sa.event.listen(reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return writer, reader


def _read_only(address: str, common: dict[str, Any]) -> Any:
    import sqlite3

    return sqlite3.connect(address, uri=True, isolation_level=None, **common)


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {line}")


def _postgres_engines(url: URL) -> tuple[sa.Engine, sa.Engine]:
    def engine(more: str, **kinds: Any) -> sa.Engine:
        options = {"connect_timeout": int(_WAIT_S), "options": f"-c lock_timeout={int(_WAIT_S * 1e3)}{more}"}
        return sa.create_engine(url, pool_size=_READERS, max_overflow=8, connect_args=options, **kinds)

    # A reader's statements are each a transaction of their own: BEGIN and ROLLBACK would be two more round trips.
    return engine(""), engine(" -c default_transaction_read_only=on", isolation_level="AUTOCOMMIT")


def unavailable(url: URL, error: SQLAlchemyError) -> UnavailableError:
    """Return what is said of a database that cannot be used, without its password."""
    words = str(getattr(error, "orig", None) or error).strip().splitlines()
    hint = "is it running, and is the address right?" if isinstance(error, OperationalError) else ""
    return UnavailableError(
        f"the store `{url.render_as_string(hide_password=True)}` cannot be opened",
        why=words[0][:300] if words else type(error).__name__,
        hint=hint,
    )
