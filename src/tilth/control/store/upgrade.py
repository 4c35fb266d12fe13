"""Brings a database up to the tables of this version, by Alembic."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tilth.core.errors import UnavailableError


def upgrade(connection: sa.Connection) -> None:
    """Run the migrations that a database lacks, in the transaction of `connection`.

    Raises:
        UnavailableError: it has some that this version does not know.
    """
    config, scripts = _known(connection)
    has = MigrationContext.configure(connection).get_current_revision()
    if has == scripts.get_current_head():
        return
    if has is not None and has not in {script.revision for script in scripts.walk_revisions()}:
        raise UnavailableError(
            "the store was made by a newer Tilth",
            why=f"its tables are of revision `{has[:40]}`, which this version does not know",
            hint="install that version, or restore a backup of this one",
        )
    command.upgrade(config, "head")


def newest_revision() -> str:
    """Return the revision of the tables of this version."""
    return _known(None)[1].get_current_head() or ""


def begin_at(connection: sa.Connection, revision: str) -> bool:
    """Make the tables of a revision in an empty database; return whether this version knows it."""
    config, scripts = _known(connection)
    if revision not in {script.revision for script in scripts.walk_revisions()}:
        return False
    command.upgrade(config, revision)
    return True


def _known(connection: sa.Connection | None) -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config, ScriptDirectory.from_config(config)
