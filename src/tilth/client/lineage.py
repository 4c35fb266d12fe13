"""Where a bundle came from, as it notes it: what a push tells of a version where nobody says otherwise."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tilth.client.shapes.model import Lineage

_NOTES = {"run": "lineage.run", "code": "lineage.code", "parent": "lineage.parent"}
_DATA = "lineage.data"


def noted(notes: Mapping[str, str]) -> Lineage:
    """Return the lineage that a manifest's notes tell of; a note that is none is left out."""
    told: dict[str, Any] = {name: notes[note] for name, note in _NOTES.items() if note in notes}
    with contextlib.suppress(ValueError):
        told["data"] = json.loads(notes.get(_DATA, "[]"))
    made: dict[str, Any] = {}
    for name, value in told.items():
        with contextlib.suppress(ValidationError):
            made[name] = getattr(Lineage.model_validate({name: value}), name)
    return Lineage(**made)
