"""The two doors of a worker: HTTP on a socket of its own, gRPC on a port that all workers share."""

import asyncio
import socket
import ssl
import time
from pathlib import Path
from typing import Any

from tilth.core.errors import UnavailableError
from tilth.serve.http1 import App, Connection, Room
from tilth.serve.limits import Limits
from tilth.serve.rpc import Rpc, options

#: Connections that are taken before those that are there have their turn.
_TURN = 16
Tls = tuple[str, str] | None


class HttpDoor:
    """Takes HTTP/1.1 from a listening socket, which `close` closes. Somebody calls `sweep` every now and then."""

    def __init__(self, app: App, fd: int, limits: Limits, tls: Tls) -> None:
        self._limits, self._tls = limits, tls
        self._room = Room(app, limits)
        self._socket = socket.socket(fileno=fd)
        self._context: ssl.SSLContext | None = None
        self._beginning: set[asyncio.Task[None]] = set()
        self._listening = self._closed = False

    async def open(self) -> None:
        """Begin to accept connections.

        Raises:
            OSError: the certificate cannot be read.
        """
        if self._tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._context.set_alpn_protocols(["http/1.1"])
            self._context.load_cert_chain(*self._tls)
        self._socket.setblocking(False)
        self.sweep()

    def sweep(self) -> None:
        """End what took too long, and take new connections again when there is room for them."""
        self._room.tick(time.monotonic())
        if not self._listening and not self._closed and self._has_room():
            self._listening = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    async def close(self, grace_s: float) -> None:
        """Take no more connections, and let requests in progress finish for at most `grace_s` seconds."""
        self._closed, self._room.draining = True, True
        self._deafen()
        self._socket.close()
        for connection in list(self._room.connections):
            connection.drain()
        until = time.monotonic() + grace_s
        while self._room.connections and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for task in self._beginning:
            task.cancel()
        for connection in list(self._room.connections):
            connection.evict()

    def _has_room(self) -> bool:
        return len(self._room.connections) < self._limits.connections

    def _accept(self) -> None:
        for _ in range(_TURN):
            if not self._has_room() and not self._room.waiting:
                self._deafen()
                return
            try:
                taken, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError:
                # No descriptors or no memory are left; those that wait in the queue are asked for again by `sweep`.
                self._deafen()
                return
            if not self._has_room():
                next(iter(self._room.waiting)).evict()
            taken.setblocking(False)
            made = Connection(self._room)
            self._room.connections.add(made)
            task = asyncio.get_running_loop().create_task(self._begin(taken, made))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _deafen(self) -> None:
        if self._listening:
            self._listening = False
            asyncio.get_running_loop().remove_reader(self._socket.fileno())

    async def _begin(self, taken: socket.socket, made: Connection) -> None:
        limit = self._limits.header_s
        within = {"ssl_handshake_timeout": limit, "ssl_shutdown_timeout": limit} if self._context else {}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: made, taken, ssl=self._context, **within)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # A client that leaves, or speaks no TLS, is its own affair.
            self._room.connections.discard(made)
            taken.close()


class GrpcDoor:
    """Takes gRPC from a port."""

    def __init__(self, rpc: Rpc, address: str, limits: Limits, tls: Tls) -> None:
        self._rpc, self._address, self._limits, self._tls = rpc, address, limits, tls
        self._server: Any = None

    async def open(self) -> None:
        """Begin to accept connections.

        Raises:
            UnavailableError: the port is taken.
        """
        import grpc

        self._server = grpc.aio.server(options=options(self._limits))
        self._server.add_generic_rpc_handlers((self._rpc.handlers(),))
        try:
            if self._tls:
                cert, key = (Path(name).read_bytes() for name in self._tls)
                self._server.add_secure_port(self._address, grpc.ssl_server_credentials([(key, cert)]))
            else:
                self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise UnavailableError(f"`{self._address}` cannot be listened on", why=str(error)[:200]) from None
        await self._server.start()

    async def close(self, grace_s: float) -> None:
        """Take no more calls, and let those in progress finish for at most `grace_s` seconds."""
        await self._server.stop(grace_s)
