"""What comes back: read within limits, and turned into a value or into the error that it tells of."""

import email.utils
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from tilth.client.errors import AwayError, ConflictError, ForbiddenError, StaleError, UnknownError
from tilth.core.errors import (
    InvalidError,
    MissingError,
    RefusedError,
    TilthError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
)

_MOST_BYTES = 64 << 20
_MOST_S = 300.0
_MOST_TEXT = 4000
_PROBLEM, _JSON = "application/problem+json", "application/json"
#: Statuses of those in between, or of a server that is about to come back (RFC 9110 and 6585).
AWAY = frozenset((429, 502, 503, 504))
S = TypeVar("S", bound=BaseModel)

#: By the `error` that a problem names.
_BY_NAME: Mapping[str, type[TilthError]] = {
    kind.__name__: kind
    for kind in (
        UnknownError,
        ForbiddenError,
        ConflictError,
        StaleError,
        InvalidError,
        MissingError,
        RefusedError,
        UnsupportedError,
        UntrustedError,
        TilthError,
    )
}
#: For names that a newer control plane has.
_BY_STATUS: Mapping[int, type[TilthError]] = {
    400: InvalidError,
    401: UnknownError,
    403: ForbiddenError,
    404: MissingError,
    405: UnsupportedError,
    409: ConflictError,
    412: StaleError,
    413: InvalidError,
    415: UnsupportedError,
    422: RefusedError,
    501: UnsupportedError,
}
_TLS_HINT = "name the certificate of its authority with `--ca FILE` (`ca=` in Python); is it https at all?"
_OTHER_NAME = "write the host as its certificate names it"
#: By OpenSSL's codes for certificates: expired, another host name, another IP address.
_TLS_HINTS = {10: "its certificate has expired; whoever runs it has to renew it", 62: _OTHER_NAME, 64: _OTHER_NAME}


@dataclass(frozen=True)
class Answer:
    """A successful answer that was read whole."""

    status: int
    headers: httpx.Headers
    data: bytes

    def as_(self, shape: type[S]) -> S:
        """Return it as one of the shapes of the API.

        Raises:
            UnavailableError: it is not one.
        """
        try:
            return shape.model_validate_json(self.data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise UnavailableError(
                "the answer is not understood",
                why=f"`{where[:100]}`: {first['msg'][:200]}",
                hint="is the control plane of another version? `tilth status` shows its version",
            ) from None


def check(answer: httpx.Response) -> None:
    """Return when an answer whose body was not read tells of success.

    Raises:
        TilthError: what it tells of. AwayError when it may be asked again.
    """
    status = answer.status_code
    if 300 <= status < 400 and status != 304:
        raise _redirected(answer)
    if status < 400:
        return
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    told = _problem(read(answer, 1 << 20)) if kind == _PROBLEM else {}
    if told:
        raise _told(status, told, _after_s(answer))
    raise _foreign(answer, kind)


def whole(answer: httpx.Response) -> Answer:
    """Return a successful answer, read whole; raises as `check` and `read`."""
    check(answer)
    data = read(answer, _MOST_BYTES)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if data and kind != _JSON:
        raise _foreign(answer, kind)
    return Answer(answer.status_code, answer.headers, data)


def read(answer: httpx.Response, most_bytes: int) -> bytes:
    """Return the body of an answer.

    Raises:
        UnavailableError: it does not end, or is packed in a way that nobody asked for.
    """
    check_plain(answer)
    made, until = bytearray(), time.monotonic() + _MOST_S
    for block in answer.iter_raw():
        made += block
        if len(made) > most_bytes or time.monotonic() > until:
            raise UnavailableError(
                f"the answer of `{_origin(answer)}` does not end",
                why=f"more than {most_bytes >> 20} MiB came, or it took longer than {_MOST_S:g} s",
                hint="is this the address of a control plane?",
            )
    return bytes(made)


def check_plain(answer: httpx.Response) -> None:
    """Return when the bytes on the wire are those that are meant.

    Raises:
        UnavailableError: they are packed; a small answer could be an endless one.
    """
    packed = answer.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise UnavailableError(
            f"the answer of `{_origin(answer)}` is not read",
            why=f"its content encoding is `{packed[:40]}`, which was not asked for",
            hint="is something between that packs answers?",
        )


def unreachable(where: str, error: httpx.HTTPError) -> TilthError:
    """Return what is said of a request that got no whole answer; AwayError when it may be sent again."""
    why = f"{type(error).__name__}: {error}".removesuffix(": ")[:300]
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return InvalidError("the request cannot be sent", why=why)
    if isinstance(error, httpx.ConnectError) and (tls := _tls_error(error)) is not None:
        hint = _TLS_HINTS.get(getattr(tls, "verify_code", 0), _TLS_HINT)
        return UnavailableError(f"`{where}` cannot be trusted", why=why, hint=hint)
    if isinstance(error, httpx.ConnectError):
        return AwayError(f"`{where}` does not answer", why=why, hint="is it running? `tilth status` says so there")
    if isinstance(error, httpx.TimeoutException):
        return AwayError(f"`{where}` does not answer in time", why=why, hint="try again when it has less to do")
    ended = "closed" in why or "disconnected" in why
    if isinstance(error, httpx.RemoteProtocolError) and not ended:
        return UnavailableError(
            f"`{where}` does not speak HTTP as expected", why=why, hint="is this the address of a control plane?"
        )
    return AwayError(f"the connection to `{where}` broke", why=why, hint="try again")


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _problem(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("what"), str) else {}


def _told(status: int, told: dict[str, Any], after_s: float) -> TilthError:
    what, why, hint = (str(told.get(name) or "")[:_MOST_TEXT] for name in ("what", "why", "hint"))
    if status in AWAY:
        return AwayError(what, why=why, hint=hint, after_s=after_s, told=True)
    kind = _BY_NAME.get(str(told.get("error"))) or _BY_STATUS.get(status, TilthError)
    return kind(what, why=why, hint=hint)


def _foreign(answer: httpx.Response, kind: str) -> TilthError:
    what = f"`{_origin(answer)}` does not answer as a control plane does"
    why = f"status {answer.status_code}, {kind or 'nothing'} in place of JSON"
    if answer.status_code in AWAY:
        return AwayError(what, why=why, hint="try again", after_s=_after_s(answer))
    return UnavailableError(what, why=why, hint="check the address; is something else listening there, or in between?")


def _redirected(answer: httpx.Response) -> TilthError:
    to = re.sub(r"//[^/]*@", "//...@", answer.headers.get("location", "")[:200])
    return UnavailableError(
        f"`{_origin(answer)}` sends elsewhere",
        why=f"to `{ascii(to)[1:-1]}`, where no token is sent",
        hint="if that is the control plane, log in there: `tilth login URL`",
    )


def _after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")[:64]
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _origin(answer: httpx.Response) -> str:
    url = answer.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
