"""Requests to a tracking server over its Unix socket: bodies in both directions pass through a block at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import cast

import httpcore

from tilth.core.errors import UnavailableError

Headers = list[tuple[bytes, bytes]]
_CONNECTIONS, _IDLE_S = 64, 60.0
_TIMEOUTS = {"connect": 10.0, "read": 300.0, "write": 300.0, "pool": 15.0}


class Answer:
    """What the server has answered: status and headers, and a body that is read as it is passed on."""

    def __init__(self, response: httpcore.Response) -> None:
        self.status: int = response.status
        self.headers: Headers = response.headers
        self._response = response

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        try:
            async for block in cast("AsyncIterable[bytes]", self._response.stream):
                yield block
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _away(error) from None

    async def close(self) -> None:
        """Let go of the connection, whether the body was read or not."""
        with contextlib.suppress(Exception):
            await self._response.aclose()


class Wire:
    """Connections to the server at a socket, kept between requests."""

    def __init__(self, path: str) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            uds=path, max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_IDLE_S
        )

    async def send(self, method: str, target: bytes, headers: Headers, content: bytes | AsyncIterable[bytes]) -> Answer:
        """Send a request; `target` is its path and query as they are to arrive. The answer has to be closed.

        Raises:
            UnavailableError: the server does not answer, or broke off.
        """
        url = httpcore.URL(scheme=b"http", host=b"localhost", port=None, target=target)
        request = httpcore.Request(
            method, url, headers=[(b"host", b"localhost"), *headers], content=content, extensions={"timeout": _TIMEOUTS}
        )
        try:
            return Answer(await self._pool.handle_async_request(request))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _away(error) from None

    async def asks(self, path: str, limit_s: float) -> bool:
        """Return whether a GET is answered well within a time."""
        try:
            async with asyncio.timeout(limit_s):
                answer = await self.send("GET", b"/" + path.encode(), [], b"")
                await answer.close()
                return answer.status == 200
        except (UnavailableError, TimeoutError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def _away(error: Exception) -> UnavailableError:
    return UnavailableError(
        "the tracking server does not answer",
        why=f"{type(error).__name__} {error}".strip()[:300],
        hint="it is started again by itself; try again",
    )
