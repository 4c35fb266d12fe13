"""Which names things may have: no name can be taken for a path, an option or another thing; pure."""

import re
import secrets
import time
from typing import Final

from tilth.core.errors import InvalidError

#: A pattern, and in words. Names of projects have no dot, so that `project.endpoint` names one endpoint.
_RULES: Final = {
    "project": (r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?", "1 to 48 of a-z, 0-9 and `-`, no `-` at an end"),
    "user": (r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?", "1 to 64 of a-z, 0-9, `.`, `_`, `@` and `-`"),
    "model": (r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", "1 to 64 of a-z, 0-9, `.`, `_` and `-`"),
    "endpoint": (r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", "1 to 64 of a-z, 0-9, `.`, `_` and `-`"),
    "node": (r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", "1 to 64 of a-z, 0-9, `.`, `_` and `-`"),
    "alias": (r"(?!latest\Z)[a-z](?:[a-z0-9_-]{0,62}[a-z0-9])?", "1 to 64 of a-z, 0-9, `_` and `-`, a letter first"),
    "token": (r"[A-Za-z0-9](?:[A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9])?", "1 to 64 letters, digits, ` `, `.`, `_`, `@`, `-`"),
}
PATTERNS: Final = {kind: f"^{pattern}$" for kind, (pattern, _) in _RULES.items()}
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def checked(kind: str, text: str) -> str:
    """Return a name that is one of its kind.

    Raises:
        InvalidError: it is not.
    """
    pattern, words = _RULES[kind]
    if re.fullmatch(pattern, text) and ".." not in text:
        return text
    raise InvalidError(
        f"`{ascii(text[:80])[1:-1]}` is no name of a {kind}",
        why=f"a name has {words}",
        hint="choose another name",
    )


def number(text: str) -> int | None:
    """Return the number of a version that `text` names, None when it is no number."""
    return int(text) if _NUMBER.fullmatch(text) else None


def new_id() -> str:
    """Return a new id of 32 hex digits: the time in milliseconds first, so that ids grow, and 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
