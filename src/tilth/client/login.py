"""Who you are at which control plane: what `tilth login` keeps, or what the environment says instead."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tilth.bridge.disk import clear_errors, discard, put, sibling
from tilth.client.origin import check_token, parse_origin
from tilth.core.errors import InvalidError, MissingError, RefusedError

_MOST_BYTES = 64 << 10
_HINT = "run `tilth login URL`, or set TILTH_URL and TILTH_TOKEN"


@dataclass(frozen=True)
class Login:
    """Address and token of a control plane, and the project that commands are about where they name none.

    `ca` is a PEM file of the authority that the server's certificate is from, empty for those of the system.
    """

    url: str
    token: str
    project: str = "default"
    ca: str = ""
    insecure: bool = False


def login_place(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the login is kept: `TILTH_LOGIN`, or `tilth/login.json` in the user's configuration folder."""
    if given := environment.get("TILTH_LOGIN"):
        return Path(given)
    above = environment.get("XDG_CONFIG_HOME")
    return (Path(above) if above else Path.home() / ".config") / "tilth" / "login.json"


def current_login(environment: Mapping[str, str] = os.environ) -> Login:
    """Return the login that holds: `TILTH_URL` with `TILTH_TOKEN`, or the one that is kept.

    `TILTH_PROJECT` names another project with either; `TILTH_CA` goes with the first.

    Raises:
        MissingError: there is none.
        InvalidError: only one of the two variables is set, or the file is damaged.
        RefusedError: others can read or change the file.
    """
    url, token = environment.get("TILTH_URL", ""), environment.get("TILTH_TOKEN", "")
    project = environment.get("TILTH_PROJECT", "")
    if url and token:
        return Login(url, token, project or Login.project, environment.get("TILTH_CA", ""))
    if url or token:
        # A kept token must not travel to another address, nor another token to the kept one.
        raise InvalidError(
            "TILTH_URL and TILTH_TOKEN belong together",
            why=f"only `{'TILTH_URL' if url else 'TILTH_TOKEN'}` is set",
            hint="set both, or none to use what `tilth login` keeps",
        )
    kept = kept_login(login_place(environment))
    if kept is None:
        raise MissingError("you are not logged in", why=f"there is no `{login_place(environment)}`", hint=_HINT)
    return Login(**(asdict(kept) | ({"project": project} if project else {})))


def kept_login(place: Path) -> Login | None:
    """Return the login that is kept in a file, None when there is none.

    Raises:
        InvalidError: the file is damaged.
        RefusedError: others than its owner can read or change it.
    """
    try:
        with place.open("rb") as file:
            _check_own(os.fstat(file.fileno()), place)
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        return _decoded(json.loads(data))
    except (ValueError, RecursionError, InvalidError):
        raise InvalidError(
            f"`{place}` is not a login", why="it was changed or damaged", hint="run `tilth login URL` to make it anew"
        ) from None


def keep_login(place: Path, login: Login) -> None:
    """Write a login where only you can read it, in one step.

    Raises:
        UnavailableError: it cannot be written.
    """
    with clear_errors(place, _MOST_BYTES):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with sibling(place, folder=False) as beside:
            with beside.open("wb") as file:
                file.write(json.dumps(asdict(login), indent=2).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            put(beside, place)


def forget_login(place: Path) -> None:
    """Remove a login; none that is there is no error."""
    discard(place)


def _check_own(found: os.stat_result, place: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"`{place}` is not a file", hint="remove it and run `tilth login URL`")
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RefusedError(
            f"`{place}` is not for its owner alone",
            why="it holds a token",
            hint=f"run `chmod 600 {place}`; if others may have read it, revoke the token with `tilth tokens revoke`",
        )


def _decoded(told: Any) -> Login:
    if not isinstance(told, dict) or not {"url", "token"} <= set(told):
        raise InvalidError("no login")
    known = {one.name for one in fields(Login)}
    given = {name: value for name, value in told.items() if name in known}
    if any(not isinstance(value, bool if name == "insecure" else str) for name, value in given.items()):
        raise InvalidError("no login")
    made = Login(**given)
    check_token(made.token)
    parse_origin(made.url)
    return made
