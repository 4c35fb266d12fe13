"""Which names things may have: no name can be taken for a path, an option or another thing; pure."""

import re
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
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def checked(kind: str, text: str) -> str:
    """Return a name that is one of its kind.

    Raises:
        InvalidError: it is not.
    """
    if why := objection(kind, text):
        raise InvalidError(f"`{ascii(text[:80])[1:-1]}` is no name of a {kind}", why=why, hint="choose another name")
    return text


def objection(kind: str, text: str) -> str:
    """Return why `text` is no name of its kind, empty when it is one."""
    pattern, words = _RULES[kind]
    return "" if re.fullmatch(pattern, text) and ".." not in text else f"a name has {words}"


def number(text: str) -> int | None:
    """Return the number of a version that `text` names, None when it is no number."""
    return int(text) if _NUMBER.fullmatch(text) else None
