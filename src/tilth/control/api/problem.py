"""Errors as answers: one table from class to status, and problem+json (RFC 9457) with what, why and hint."""

import json
import logging
import re
from typing import Any

from starlette.responses import Response

from tilth.client.errors import ConflictError, ForbiddenError, StaleError, UnknownError
from tilth.client.shapes.shape import Problem
from tilth.control.failure import BusyError
from tilth.core.errors import (
    CancelledError,
    InvalidError,
    MissingError,
    RefusedError,
    TilthError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
)

_LOG = logging.getLogger("tilth.control")
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class TooLargeError(InvalidError):
    """The body is larger than what is taken here."""


class MediaTypeError(UnsupportedError):
    """The body is of a kind that is not taken here."""


#: HTTP status (RFC 9110); the most specific class first.
TABLE: tuple[tuple[type[TilthError], int], ...] = (
    (UnknownError, 401),
    (ForbiddenError, 403),
    (ConflictError, 409),
    (StaleError, 412),
    (UntrustedError, 422),
    (RefusedError, 422),
    (TooLargeError, 413),
    (InvalidError, 400),
    (MediaTypeError, 415),
    (UnsupportedError, 422),
    (MissingError, 404),
    (BusyError, 503),
    (UnavailableError, 503),
    (CancelledError, 503),
    (TilthError, 500),
)


def status(error: TilthError) -> int:
    """Return the HTTP status of an error."""
    return next(code for kind, code in TABLE if isinstance(error, kind))


def problem(error: TilthError, code: int | None = None) -> Problem:
    """Return an error as the body of an answer."""
    kind = type(error).__name__
    name = _WORD.sub("-", kind.removesuffix("Error")).lower()
    return Problem(
        type=f"tilth:{name}",
        title=error.what,
        status=code or status(error),
        detail=error.why,
        error=kind,
        what=error.what,
        why=error.why,
        hint=error.hint,
    )


def answer(error: Exception, headers: dict[str, str] | None = None) -> Response:
    """Return the answer to a request that failed; a fault of ours is logged, and tells nothing of itself."""
    if not isinstance(error, TilthError):
        _LOG.error("a request failed", exc_info=error)
        error = TilthError("the control plane failed", why="this is a defect in Tilth", hint="its log says more")
    body = problem(error)
    more = dict(headers or {})
    if isinstance(error, UnknownError):
        more["WWW-Authenticate"] = 'Bearer realm="tilth"'
    if body.status == 503:
        more["Retry-After"] = "1"
    return problem_response(body, more)


def problem_response(body: Problem, headers: dict[str, str]) -> Response:
    """Return a problem as a response."""
    return Response(
        body.model_dump_json(),
        body.status,
        headers={"Cache-Control": "no-store", **headers},
        media_type="application/problem+json",
    )


def not_understood(errors: list[dict[str, Any]]) -> InvalidError:
    """Return what pydantic found wrong with a request as one error; at most three places are named."""
    told = [f"`{'.'.join(str(part)[:60] for part in one['loc']) or 'body'}`: {one['msg'][:200]}" for one in errors[:3]]
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return InvalidError(
        "the request is not understood",
        why="; ".join(told) + more,
        hint="GET /v1/openapi.json describes every request",
    )


def shown(value: object) -> str:
    """Return a value from outside for an error, short and escaped."""
    return json.dumps(str(value)[:80])[1:-1]
