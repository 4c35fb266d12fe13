"""One change: a transaction, who makes it, and the event that tells of it."""

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from tilth.control.access import Principal
from tilth.control.clock import now_us
from tilth.control.row_id import new_id
from tilth.control.store.audit import Event, append


@dataclass
class Change:
    """A transaction of a store on behalf of `principal`; `events` are those that it has added."""

    connection: sa.Connection
    principal: Principal
    at_us: int = field(default_factory=now_us)
    events: list[Event] = field(default_factory=list)

    def made(self) -> dict[str, Any]:
        """Return what every new row with an id begins with."""
        return {"id": new_id(), **self.stamp()}

    def stamp(self) -> dict[str, Any]:
        """Return when and by whom a row is made."""
        return {"created_us": self.at_us, "created_by": self.principal.user_id}

    def tell(self, action: str, subject: str, project_id: str | None = None, **details: Any) -> None:
        """Add an event to the audit log, in the same transaction."""
        actor = f"user:{self.principal.name}"
        self.events += append(self.connection, Event(actor, action, subject, project_id, details, at_us=self.at_us))

    def update(self, table: sa.Table, row_id: str, rev: int, values: dict[str, Any]) -> None:
        """Change a row whose `rev` was read in this transaction."""
        self.connection.execute(table.update().where(table.c.id == row_id).values(**values, rev=rev + 1))
