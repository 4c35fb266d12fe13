"""Errors by what the caller can do about them.

TilthError
├── InvalidError      the input is wrong: fix it
├── UnsupportedError  nothing here can do this: choose another way
├── UntrustedError    bytes are not what they claim to be: do not use them
├── RefusedError      it could be done, and a rule says no
├── MissingError      something named is not there: install or create it
├── UnavailableError  not possible at this time: retry, or make room
└── CancelledError    stopped on request: run again to resume
"""

from typing import ClassVar


class TilthError(Exception):
    """Something went wrong, said as what, why and what to try.

    `exit_code` is what the command line exits with; the table is in `docs/reference/exit-codes.md`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, str]:
        """Return the error as the object that `--json` prints."""
        return {"error": type(self).__name__, "what": self.what, "why": self.why, "hint": self.hint}


class InvalidError(TilthError):
    """The input is wrong; correct it and try again."""

    exit_code = 3


class UnsupportedError(TilthError):
    """The input is sound and nothing installed here can handle it."""

    exit_code = 4


class UntrustedError(TilthError):
    """Bytes do not match what names them, or ask for something that is never allowed."""

    exit_code = 5


class RefusedError(TilthError):
    """The work could be done and a rule forbids the result, for example no build agrees."""

    exit_code = 6


class MissingError(TilthError):
    """A file, package, model or device that was named is not there."""

    exit_code = 7


class UnavailableError(TilthError):
    """A resource gave out, for example the disk is full or a time limit passed; a retry may work."""

    exit_code = 8


class CancelledError(TilthError):
    """The work was stopped on request; what was finished is kept and a new run resumes."""

    exit_code = 130
