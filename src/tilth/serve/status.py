"""Which status each error class has at the two edges; the only place that knows."""

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
from tilth.serve.access import ForbiddenError, UnauthenticatedError
from tilth.serve.failure import DeadlineError, HeadersTooLargeError, OverloadedError, SlowError, TooLargeError

#: HTTP status (RFC 9110) and the name of the gRPC status; the most specific class first.
TABLE: tuple[tuple[type[TilthError], int, str], ...] = (
    (UnauthenticatedError, 401, "UNAUTHENTICATED"),
    (ForbiddenError, 403, "PERMISSION_DENIED"),
    (UntrustedError, 403, "PERMISSION_DENIED"),
    (RefusedError, 422, "FAILED_PRECONDITION"),
    (HeadersTooLargeError, 431, "RESOURCE_EXHAUSTED"),
    (TooLargeError, 413, "RESOURCE_EXHAUSTED"),
    (SlowError, 408, "DEADLINE_EXCEEDED"),
    (InvalidError, 400, "INVALID_ARGUMENT"),
    # 422 rather than 501: nothing is wrong with the server, and a client must not retry.
    (UnsupportedError, 422, "UNIMPLEMENTED"),
    (MissingError, 404, "NOT_FOUND"),
    (OverloadedError, 503, "UNAVAILABLE"),
    (DeadlineError, 504, "DEADLINE_EXCEEDED"),
    (UnavailableError, 503, "UNAVAILABLE"),
    (CancelledError, 499, "CANCELLED"),
    (TilthError, 500, "INTERNAL"),
)


def http_status(error: TilthError) -> int:
    """Return the HTTP status of an error."""
    return next(http for kind, http, _ in TABLE if isinstance(error, kind))


def grpc_status(error: TilthError) -> str:
    """Return the name of the gRPC status of an error."""
    return next(name for kind, _, name in TABLE if isinstance(error, kind))


def reason(error: TilthError) -> str:
    """Return what a failed request counts as in the metrics."""
    kinds = ((OverloadedError, "overload"), (DeadlineError, "deadline"), (MissingError, "missing"))
    kinds_more = ((CancelledError, "cancelled"), (InvalidError, "invalid"), (UnsupportedError, "invalid"))
    return next((name for kind, name in (*kinds, *kinds_more) if isinstance(error, kind)), "engine")
