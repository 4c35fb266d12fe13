"""The two doors of a worker: HTTP by granian on a socket that all workers share, gRPC on a port that they share."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from tilth.core.errors import UnavailableError
from tilth.serve.limits import Limits
from tilth.serve.rest import Rest
from tilth.serve.rpc import Rpc, options

_BACKLOG = 1024
Tls = tuple[str, str] | None


class HttpDoor:
    """Takes HTTP/1.1 from a listening socket."""

    def __init__(self, rest: Rest, fd: int, limits: Limits, tls: Tls) -> None:
        self._rest, self._fd, self._limits, self._tls = rest, fd, limits, tls
        self._server: Any = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to accept connections."""
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.net import SocketHolder
        from granian.server.embed import Server

        holder = SocketHolder(self._fd, False, _BACKLOG)

        class Shared(Server):  # type: ignore[misc]  # granian's classes have no types here
            def _init_shared_socket(self) -> None:
                # Bound and listening already, by the supervisor, for all workers.
                self._shd, self._ssp = holder, None

        cert, key = self._tls or (None, None)
        self._server = Shared(
            self._rest,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backpressure=self._limits.connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(self._limits.header_s * 1e3),
                max_buffer_size=max(8192, self._limits.header_bytes),
            ),
            log_enabled=False,
            ssl_cert=Path(cert) if cert else None,
            ssl_key=Path(key) if key else None,
        )
        self._task = asyncio.get_running_loop().create_task(self._server.serve())
        await asyncio.sleep(0)

    async def close(self, grace_s: float) -> None:
        """Take no more connections, and let requests in progress finish for at most `grace_s` seconds."""
        if self._task is None:
            return
        self._server.stop()
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(self._task, grace_s)


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
