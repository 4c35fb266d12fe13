"""ETags: `"4"` for revision 4 of what is wanted, `"4-17"` where what was seen has a revision of its own; pure.

A change is about what is wanted, so that If-Match looks at the first number alone.
"""

import re

from tilth.client.errors import StaleError

_TAG = re.compile(r'(?:W/)?"([0-9]{1,9})(?:-[0-9]{1,9})?"')


def etag(rev: int, seen: int | None = None) -> str:
    """Return the tag of a revision."""
    return f'"{rev}"' if seen is None else f'"{rev}-{seen}"'


def expect(match: str | None, rev: int) -> None:
    """Return when an If-Match header, None for none, allows a change of revision `rev`, 0 for what is not there.

    Raises:
        StaleError: it names other revisions, or asks for any and there is none.
    """
    if match is None or (match.strip() == "*" and rev > 0):
        return
    found = [_TAG.fullmatch(part.strip()) for part in match[:1000].split(",")]
    if not any(one is not None and int(one[1]) == rev for one in found):
        raise StaleError(
            "it was changed meanwhile",
            why=f"`If-Match` says {ascii(match[:80])}, and "
            + (f"it is at revision {rev}" if rev else "it is not there"),
            hint="read it again, and decide anew",
        )


def same(none_match: str | None, tag: str) -> bool:
    """Return whether an If-None-Match header says that the client has what `tag` names.

    What is on its way may have made a tag weak (RFC 9110, section 13.1.2 compares so that it is the same).
    """
    if none_match is None:
        return False
    return none_match.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in none_match.split(",")]
