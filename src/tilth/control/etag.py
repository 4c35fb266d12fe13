"""ETags: `"4"` for revision 4 of what is wanted, `"4-17"` where what was seen has a revision of its own; pure.

A change is about what is wanted, so that If-Match looks at the first number alone.
"""

import re

from tilth.control.failure import StaleError

_TAG = re.compile(r'(?:W/)?"([0-9]{1,9})(?:-[0-9]{1,9})?"')


def etag(rev: int, seen: int | None = None) -> str:
    """Return the tag of a revision."""
    return f'"{rev}"' if seen is None else f'"{rev}-{seen}"'


def expect(match: str | None, rev: int) -> None:
    """Return when an If-Match header, None for none, allows a change of revision `rev`.

    Raises:
        StaleError: it names other revisions.
    """
    if match is None or match.strip() == "*":
        return
    found = [_TAG.fullmatch(part.strip()) for part in match[:1000].split(",")]
    if not any(one is not None and int(one[1]) == rev for one in found):
        raise StaleError(
            "it was changed meanwhile",
            why=f"`If-Match` says {ascii(match[:80])}, and it is at revision {rev}",
            hint="read it again, and decide anew",
        )


def same(none_match: str | None, tag: str) -> bool:
    """Return whether an If-None-Match header says that the client has what `tag` names."""
    return none_match is not None and (
        none_match.strip() == "*" or tag in [one.strip() for one in none_match.split(",")]
    )
