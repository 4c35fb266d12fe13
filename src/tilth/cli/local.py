"""A model that is on this machine, ready to be imported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Local:
    """What opens a model, a name for its bundle, a sample where it brought one, and what the bundle is to note."""

    what: str
    stem: str
    sample: Path | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
