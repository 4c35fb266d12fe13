"""The console's static files, read once: what is not in this list does not exist, whatever a path says."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tilth.control.console.proof import ROOT

_FOLDER: Final = Path(__file__).parent / "static"
#: Files by the name that pages use, with their types.
_FILES: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "vendor/htmx.min.js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True)
class Asset:
    """A file to be sent. Its address changes with its content, so that a browser may keep it for ever."""

    address: str
    kind: str
    body: bytes


def load() -> dict[str, Asset]:
    """Return every static file by the name that pages use."""
    made = {}
    for name, kind in _FILES.items():
        body = (_FOLDER / name).read_bytes()
        stem, _, ending = name.rpartition("/")[2].rpartition(".")
        address = f"{ROOT}/static/{stem}.{hashlib.sha256(body).hexdigest()[:16]}.{ending}"
        made[name] = Asset(address, kind, body)
    return made
