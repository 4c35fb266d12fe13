"""The console's cookies: who is signed in, and what a browser prefers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from tilth.control.records.sessions import LASTS_US

THEMES: Final = ("system", "light", "dark")
_SESSION, _THEME, _PROJECT, _TIE = "tilth_session", "tilth_theme", "tilth_project", "tilth_away"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
_YEAR_S, _AWAY_S = 365 * 86400, 600


@dataclass(frozen=True)
class Preference:
    """What a browser prefers, and nothing that is to be trusted: a theme, and the project looked at last."""

    theme: str = "system"
    project: str = ""


def session_name(https: bool) -> str:
    """Return the name of the cookie; with `__Host-` no other host and no plain HTTP page can set it."""
    return f"__Host-{_SESSION}" if https else _SESSION


def secret_of(cookies: Mapping[str, str], https: bool) -> str:
    """Return the session's secret that a browser sent, empty for none."""
    return cookies.get(session_name(https), "")


def sign_in(response: Response, secret: str, https: bool) -> None:
    """Let the browser keep the secret of a new session, out of reach of scripts and of other sites."""
    response.set_cookie(
        session_name(https),
        secret,
        max_age=LASTS_US // 1_000_000,
        path="/",
        secure=https,
        httponly=True,
        samesite="strict",
    )


def sign_out(response: Response, https: bool) -> None:
    """Let the browser forget its session."""
    response.delete_cookie(session_name(https), path="/", secure=https, httponly=True, samesite="strict")


def preference(cookies: Mapping[str, str]) -> Preference:
    """Return what a browser prefers; what cannot be a preference is none."""
    theme, project = cookies.get(_THEME, ""), cookies.get(_PROJECT, "")
    return Preference(theme if theme in THEMES else "system", project if _NAME.fullmatch(project) else "")


def prefer(response: Response, https: bool, *, theme: str | None = None, project: str | None = None) -> None:
    """Let the browser keep a preference."""
    for name, value in ((_THEME, theme), (_PROJECT, project)):
        if value is not None:
            response.set_cookie(
                name, value, max_age=_YEAR_S, path="/console", secure=https, httponly=True, samesite="strict"
            )


def tie(response: Response, browser: str, https: bool) -> None:
    """Let a browser that goes to an identity provider keep what shows that it is the one that comes back.

    It comes back from another site, which a strict cookie would not survive; a lax one goes with such a GET alone.
    """
    response.set_cookie(
        _tie_name(https), browser, max_age=_AWAY_S, path="/", secure=https, httponly=True, samesite="lax"
    )


def tied(cookies: Mapping[str, str], https: bool) -> str:
    """Return what a browser kept that went to an identity provider, empty for none."""
    return cookies.get(_tie_name(https), "")


def untie(response: Response, https: bool) -> None:
    """Let the browser forget it."""
    response.delete_cookie(_tie_name(https), path="/", secure=https, httponly=True, samesite="lax")


def _tie_name(https: bool) -> str:
    return f"__Host-{_TIE}" if https else _TIE
