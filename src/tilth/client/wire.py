"""Requests to one control plane: sent again where that is safe, and never to anybody else."""

import contextlib
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from tilth.client.answer import Answer, unreachable, whole
from tilth.client.errors import AwayError
from tilth.client.origin import check_private, check_token, parse_origin
from tilth.client.patience import Patience
from tilth.core.errors import InvalidError, MissingError
from tilth.core.version import VERSION

_CONNECT_S, _WRITE_S = 5.0, 60.0
_CONNECTIONS = 16
S = TypeVar("S", bound=BaseModel)
Query = Mapping[str, str | int | bool]


class Wire:
    """Connections to the control plane at `url`, kept between requests. Threads may share it.

    Raises:
        InvalidError: `url`, `token` or `ca` is not one.
        MissingError: there is no file `ca`.
        RefusedError: the token would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca: str | Path | None = None,
        insecure: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        self.origin = parse_origin(url)
        check_private(self.origin, insecure)
        self.timeout_s = timeout_s
        local = self.origin.loopback
        self._client = httpx.Client(
            base_url=str(self.origin),
            headers={
                "Authorization": f"Bearer {check_token(token)}",
                "Accept": "application/json",
                # What is packed could be endless once unpacked; and blobs do not get smaller.
                "Accept-Encoding": "identity",
                "User-Agent": f"tilth/{VERSION}",
            },
            verify=_context(self.origin.scheme, ca),
            timeout=_limits(timeout_s),
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            follow_redirects=False,
            # A proxy of the environment is for the world outside; on this machine it would be sent the token.
            trust_env=not local,
        )

    def close(self) -> None:
        """Close the connections. Calling it twice is allowed."""
        self._client.close()

    # -- what the nouns need

    def get(self, shape: type[S], path: str, query: Query | None = None) -> S:
        """Ask, up to three times.

        Raises:
            TilthError: as the control plane says; AwayError when it does not answer.
        """
        return self.sent("GET", path, query=query).as_(shape)

    def newer(self, shape: type[S], path: str, etag: str) -> S | None:
        """Return what is there, None when it still is what `etag` names; raises as `get`."""
        answer = self.sent("GET", path, headers={"If-None-Match": etag})
        return None if answer.status == 304 else answer.as_(shape)

    def post(self, shape: type[S], path: str, order: BaseModel | None, match: str | None = None) -> S:
        """Send an order with an idempotency key of its own, up to three times; raises as `get`."""
        return self.sent("POST", path, order=order, match=match).as_(shape)

    def change(self, shape: type[S], method: str, path: str, order: BaseModel, match: str | None = None) -> S:
        """Send an order once, with PUT or PATCH; raises as `get`, and StaleError when `match` is not what is there."""
        return self.sent(method, path, order=order, match=match).as_(shape)

    def remove(self, path: str, match: str | None = None) -> None:
        """Send DELETE once; raises as `change`."""
        self.sent("DELETE", path, match=match)

    # -- requests

    def sent(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        order: BaseModel | None = None,
        match: str | None = None,
        headers: Mapping[str, str] | None = None,
        limit_s: float | None = None,
        patience_s: float = 0.0,
    ) -> Answer:
        """Send a request and return the answer, read whole.

        GET, and POST by its idempotency key, are sent up to three times when nobody answers or somebody says that it
        is too early; or for `patience_s` where that is longer. `limit_s` is how long the answer may take to begin.

        Raises:
            TilthError: as the control plane says; AwayError when it does not answer.
        """
        more = dict(headers or {})
        if match is not None:
            more["If-Match"] = match
        if method == "POST":
            more["Idempotency-Key"] = secrets.token_hex(16)
        body: dict[str, Any] = {}
        if order is not None:
            more["Content-Type"] = "application/json"
            body["content"] = order.model_dump_json(exclude_unset=True).encode()
        patience = Patience(patience_s)
        while True:
            try:
                with self.opened(method, path, more, query=query, limit_s=limit_s, **body) as answer:
                    return whole(answer)
            except AwayError as error:
                if method not in ("GET", "POST"):
                    raise
                time.sleep(patience.pause_s(error))

    @contextlib.contextmanager
    def opened(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: Query | None = None,
        content: Iterator[bytes] | bytes | None = None,
        limit_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request once and give its answer with the body unread; errors of the wire become ours.

        Raises:
            AwayError: the connection broke, or there was none.
            UnavailableError: what answers is no control plane, or cannot be trusted.
        """
        asked = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in (query or {}).items()
        }
        try:
            with self._client.stream(
                method,
                path,
                headers=dict(headers),
                params=asked or None,
                content=content,
                timeout=_limits(limit_s or self.timeout_s),
            ) as answer:
                yield answer
        except httpx.HTTPError as error:
            raise unreachable(str(self.origin), error) from None


def path_of(*names: str) -> str:
    """Return the path `/v1/...` of what `names` name.

    Raises:
        InvalidError: a name is empty, `.` or `..`, which would name something else.
    """
    for name in names:
        if name in ("", ".", ".."):
            raise InvalidError(f"`{name}` is no name", why="nothing can be called so", hint="give a name")
    return "/v1/" + "/".join(quote(name, safe="") for name in names)


def made(shape: type[S], **values: Any) -> S:
    """Return an order of what was given; None is what was not.

    Raises:
        InvalidError: a value is out of range.
    """
    try:
        return shape(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        raise InvalidError(f"`{where}` is not understood", why=first["msg"][:300]) from None


def _limits(limit_s: float) -> httpx.Timeout:
    return httpx.Timeout(limit_s, connect=min(limit_s, _CONNECT_S), write=max(limit_s, _WRITE_S))


def _context(scheme: str, ca: str | Path | None) -> ssl.SSLContext | bool:
    if scheme == "http":
        # One that trusts nobody: to read the certificates of the system takes longer than most requests.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not ca:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except FileNotFoundError:
        raise MissingError(f"there is no file `{ca}`", why="it was named as certificate authority") from None
    except (ssl.SSLError, OSError) as error:
        raise InvalidError(f"`{ca}` holds no certificates", why=str(error)[:200], hint="it has to be PEM") from None
