"""What tells a form of ours from one of another site, and a page of ours from another address; pure."""

import hashlib
import hmac
from collections.abc import Mapping

#: Where the console begins; every address that it sends anybody to is below.
ROOT = "/console"
_MOST_NEXT = 2048


def mark(secret: str) -> str:
    """Return what every form of a session carries: nobody can tell it who does not have the session's secret."""
    return hmac.new(secret.encode(), b"tilth console form", hashlib.sha256).hexdigest()


def is_marked(secret: str, sent: str) -> bool:
    """Return whether a form carries the mark of a session."""
    return hmac.compare_digest(mark(secret).encode(), sent.encode())


def foreign(headers: Mapping[str, str], scheme: str) -> str:
    """Return why a form was not sent by a page of this address, empty when it was.

    Browsers say which page sends a form in `Origin`, in `Sec-Fetch-Site` or in both. What says neither is no browser
    of today, and is refused.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is None and site is None:
        return "neither `Origin` nor `Sec-Fetch-Site` says which page sends it"
    if site is not None and site != "same-origin":
        return "a page of another site sends it"
    if origin is not None and origin != f"{scheme}://{headers.get('host', '')}":
        return "a page of another origin sends it"
    return ""


def own_path(sent: str) -> str:
    """Return where to go next when that is a page of the console, else where the console begins.

    Only what cannot be read as another host is one: no `//host`, no backslash, no control character, no `..`.
    """
    plain = sent.isascii() and sent.isprintable() and len(sent) <= _MOST_NEXT
    path = sent.partition("?")[0].partition("#")[0]
    inside = path == ROOT or path.startswith(f"{ROOT}/")
    if plain and inside and "\\" not in sent and "//" not in path and ".." not in path and " " not in sent:
        return sent
    return ROOT
