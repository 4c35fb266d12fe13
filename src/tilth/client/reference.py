"""`MODEL` and `MODEL:VERSION`, as people name versions; pure."""

import re
from dataclasses import dataclass

from tilth.client.names import objection
from tilth.core.errors import InvalidError

_VERSION = re.compile(r"[1-9][0-9]{0,8}|[a-z](?:[a-z0-9_-]{0,62}[a-z0-9])?")


@dataclass(frozen=True)
class Reference:
    """A model, and which version of it: a number, an alias, `latest`, or empty where none was named."""

    model: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.model}:{self.version}" if self.version else self.model


def parse_reference(text: str, *, version: bool | None = None) -> Reference:
    """Return what `MODEL` or `MODEL:VERSION` names; `version` says that one has to be there, or may not be.

    Raises:
        InvalidError: it names nothing, or not what is wanted here.
    """
    model, colon, which = text.partition(":")
    form = {True: "MODEL:VERSION", False: "MODEL", None: "MODEL or MODEL:VERSION"}[version]
    wrong = (
        (bool(unfit := objection("model", model)), unfit),
        (bool(colon) and not _VERSION.fullmatch(which), "a version is a number, an alias or `latest`"),
        (version is True and not colon, "no version is named"),
        (version is False and bool(colon), "a version is named, and this is about the model"),
    )
    why = next((reason for found, reason in wrong if found), "")
    if why:
        raise InvalidError(
            f"`{ascii(text[:140])[1:-1]}` is not {form}",
            why=why,
            hint=f"write {form}, such as {'fraud' if version is False else 'fraud:3'}",
        )
    return Reference(model, which)
