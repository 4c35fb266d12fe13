"""The port: HTTP/1.1 by uvicorn, with limits on who is slow, silent or endless before a request is one."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tilth.control.api.app import App
from tilth.core.address import Address
from tilth.core.errors import UnavailableError

_HEAD_BYTES = 32 << 10
_HEAD_S, _IDLE_S = 10.0, 30.0
#: How long a body may still come that nobody waits for: its sender may not have read the answer yet.
_UNREAD_S = 10.0
_MOST_CONNECTIONS = 2048
_END_S = 5


class _Protocol(HttpToolsProtocol):  # type: ignore[misc]
    """uvicorn's protocol; a head has to be whole within 10 s and 32 KiB, and trailers are passed over."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        #: Bytes behind the head of a chunk that has no body so far; None where there is none, -1 where it just began.
        self._trailer_bytes: int | None = None
        self._arriving: Any = None
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(_HEAD_S, self._late)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            before = self._in_head
            super().data_received(data)
            if before and self._in_head and self._head_bytes > _HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
        else:
            super().data_received(data)
            if self._trailer_bytes is not None:
                self._trailer_bytes = self._trailer_bytes + len(data) if self._trailer_bytes >= 0 else 0
                if self._trailer_bytes > _HEAD_BYTES:
                    self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._timer is None:
            self._timer = self.loop.call_later(_HEAD_S, self._late)

    def on_header(self, name: bytes, value: bytes) -> None:
        # What stands behind the body was not there when it was decided who asks.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()
        self._arriving = self.cycle

    def on_chunk_header(self) -> None:
        """Note that a chunk begins; the last one has no body, and trailers come behind it."""
        self._trailer_bytes = -1

    def on_message_complete(self) -> None:
        self._trailer_bytes = self._arriving = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._arriving is not None:
            self.loop.call_later(_UNREAD_S, self._end_unread, self._arriving)

    def _end_unread(self, cycle: Any) -> None:
        if self._arriving is cycle and cycle.response_complete:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._trailer_bytes = None
        cycle = self.cycle
        if cycle.body or cycle.response_complete:
            super().on_body(body)
            return
        # uvicorn gathers what comes in an array and copies it out again; most often one piece is all there is.
        cycle.body = body
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs this server."""
        yield


def bound(address: Address) -> socket.socket:
    """Return a listening socket.

    Raises:
        UnavailableError: the address is taken, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # asyncio turns off Nagle's algorithm for what says that it is TCP; with it, answers wait 40 ms for an ACK.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address.host, address.port))
        made.listen(1024)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise UnavailableError(
            f"`{address}` cannot be listened on", why=error.strerror or str(error), hint="choose another with `--port`"
        ) from None
    return made


@contextlib.asynccontextmanager
async def listening(
    app: App, sockets: socket.socket, tls_cert: Path | None = None, tls_key: Path | None = None
) -> AsyncIterator[None]:
    """Serve an application on a socket until the block ends; requests that have begun get 5 s then."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=int(_IDLE_S),
        timeout_graceful_shutdown=_END_S,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )
    server = _Server(config)
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[sockets]))
    try:
        while not server.started:
            if task.done():
                await task
                raise UnavailableError("the port cannot be served")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(Exception):
            await task
