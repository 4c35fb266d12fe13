"""What a form sends: `application/x-www-form-urlencoded`, at most 64 KiB, read by the standard library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import Request

from tilth.control.api import body, problem
from tilth.control.api.problem import MediaTypeError
from tilth.core.errors import InvalidError

MOST_BYTES = 64 << 10
MOST_FIELDS = 256


@dataclass(frozen=True)
class Form:
    """The fields that were sent, each with every value it was given, in order."""

    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """Return a field without spaces around it; the first value when there are several."""
        return self.fields.get(name, (default,))[0].strip()

    def lines(self, name: str) -> str:
        """Return a field of several lines, as it was typed, with the line ends of Unix."""
        return self.fields.get(name, ("",))[0].replace("\r\n", "\n").strip("\n")

    def every(self, name: str) -> list[str]:
        """Return all values of a field."""
        return list(self.fields.get(name, ()))

    def has(self, name: str) -> bool:
        """Return whether a field was sent."""
        return name in self.fields

    def number(self, name: str, default: float) -> float:
        """Return a field as a number, `default` where it is empty.

        Raises:
            InvalidError: it is none.
        """
        text = self.text(name)
        try:
            return float(text) if text else default
        except ValueError:
            raise InvalidError(
                f"`{problem.shown(text)}` is not a number", why=f"`{name}` is one", hint="write it as 12 or 12.5"
            ) from None

    def whole(self, name: str) -> int | None:
        """Return a field as a whole number above 0, None where it is empty.

        Raises:
            InvalidError: it is none.
        """
        text = self.text(name)
        if not text:
            return None
        if text.isascii() and text.isdecimal() and 0 < len(text) < 16 and int(text):
            return int(text)
        raise InvalidError(f"`{problem.shown(text)}` is not a whole number above 0", why=f"`{name}` is one")


async def read(request: Request) -> Form:
    """Return what a request sends as a form.

    Raises:
        MediaTypeError: it is of another kind.
        TooLargeError: it is longer than 64 KiB.
        InvalidError: it is not UTF-8, or has too many fields.
        UnavailableError: it does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise MediaTypeError(
            "this is not a form", why=f"its type is `{problem.shown(kind)}`", hint="use the page's own"
        )
    return parsed(await body.gathered(request, MOST_BYTES))


def parsed(data: bytes) -> Form:
    """Return the fields of a form.

    Raises:
        InvalidError: it is not UTF-8, or has too many fields.
    """
    try:
        pairs = parse_qsl(
            data.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS, encoding="utf-8", errors="strict"
        )
    except ValueError:
        raise InvalidError(
            "the form is not understood", why=f"it is UTF-8, percent-encoded, with at most {MOST_FIELDS} fields"
        ) from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return Form(fields)
