"""A request's body: JSON that says one thing, whoever reads it."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from tilth.control.api.problem import MediaTypeError, TooLargeError, shown
from tilth.core.errors import InvalidError, UnavailableError

MOST_BYTES = 1 << 20
_LATE_S = 30.0


async def read(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        MediaTypeError: it is not said to be JSON; a browser sends nothing else from other sites without asking first.
        TooLargeError: it has more than 1 MiB.
        UnavailableError: it does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeError(
            "the body is not JSON",
            why=f"its type is `{shown(kind)}`",
            hint="send `Content-Type: application/json`",
        )
    return await gathered(request, MOST_BYTES)


async def gathered(request: Request, most_bytes: int, *, within_s: float = _LATE_S) -> bytes:
    """Return a body of any kind, whole.

    Raises:
        TooLargeError: it has more than `most_bytes`.
        UnavailableError: it is not here `within_s`, or whoever sends it went away: a sender that is silent, or sends a
            byte at a time, must not keep its place for ever.
    """
    made = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for block in request.stream():
                made += block
                if len(made) > most_bytes:
                    raise TooLargeError("the body is too large", why=f"at most {most_bytes} bytes are taken here")
    except TimeoutError:
        raise UnavailableError("the body has not come", why=f"{within_s:g} s are given to it") from None
    except ClientDisconnect:
        raise UnavailableError("the body broke off", why="whoever sent it went away") from None
    return bytes(made)


def check(data: bytes) -> None:
    """Return when a body is JSON that every reader understands alike, and that both databases can hold.

    Raises:
        InvalidError: it is no JSON, says something twice, or holds NaN, NUL or half a character.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise _not_taken("it nests too deeply") from None
    except ValueError as error:
        raise _not_taken(str(error)[:200]) from None
    _check_texts(found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`{shown(twice)}` is there twice")
    return made


def _no_number(text: str) -> Any:
    raise ValueError(f"`{text}` is no number in JSON")


def _check_texts(found: Any) -> None:
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value or not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
                raise _not_taken("a text holds NUL, or half of a character")
        elif isinstance(value, float):
            if value in (float("inf"), float("-inf")):
                raise _not_taken("a number is too large")
        elif isinstance(value, dict | list):
            waiting += _parts(value)


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value


def _not_taken(why: str) -> InvalidError:
    return InvalidError("the body is not understood", why=why, hint="GET /v1/openapi.json describes every request")
