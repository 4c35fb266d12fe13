"""Which database a control plane has, as commands are told of it."""

import os
from urllib.parse import parse_qs, urlsplit

from tilth.control.home import Home
from tilth.core.errors import InvalidError


def store_address(given: str, place: Home) -> str:
    """Return what `--store` says, else `TILTH_STORE`, else the SQLite file of a home.

    Raises:
        InvalidError: `--store` holds a password.
    """
    if given and _has_password(given):
        raise InvalidError(
            "a password stands in `--store`",
            why="everybody on this machine can read arguments of a command",
            hint="put the address into TILTH_STORE, or the password into ~/.pgpass",
        )
    return given or os.environ.get("TILTH_STORE", "") or f"sqlite:///{place.store}"


def _has_password(address: str) -> bool:
    try:
        found = urlsplit(address)
    except ValueError:
        return False
    return found.password is not None or "password" in parse_qs(found.query)
