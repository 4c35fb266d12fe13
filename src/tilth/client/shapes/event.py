"""What happened."""

from typing import Any

from pydantic import Field

from tilth.client.shapes.shape import Shape


class Event(Shape):
    """A change, as the audit log has it: `seq` counts from 1, `hash` covers it and the one before."""

    seq: int
    at_us: int = Field(description="Microseconds since 1970, UTC.")
    actor: str = Field(examples=["user:ann"])
    action: str = Field(examples=["model.make"])
    project_id: str | None
    subject: str = Field(examples=["default/models/fraud"])
    details: dict[str, Any]
    hash: str


class Chain(Shape):
    """Whether the audit log is what was written; note `hash` elsewhere to find a rewritten one."""

    events: int
    hash: str
    sound: bool
    why: str
