"""The body of an HTTP request, within limits of size, time and number of pieces, and unpacked when it is compressed."""

import asyncio
import time
import zlib
from collections.abc import Mapping
from typing import Any

from granian.rsgi import ProtocolClosed

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.serve.failure import DeadlineError, TooLargeError
from tilth.serve.limits import Limits

#: Pieces of a body without a length: this many may be of any size, after which they must average so many bytes.
_PIECES, _PIECE_BYTES = 1024, 256
#: `wbits` of zlib: with a gzip header, and with a zlib header.
_WBITS = {"gzip": 31, "deflate": 15}
#: Below this size compressing an answer costs more than it saves.
_WORTH_BYTES = 1024


class Bodies:
    """Reads bodies; those that take too long are ended by `sweep`, which somebody calls every now and then."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reading: dict[int, tuple[float, asyncio.Task[Any] | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        #: About what `time.monotonic` says; exact enough for a limit of seconds.
        self._now = time.monotonic()

    async def read(self, headers: Mapping[str, str], proto: Any) -> bytes:
        """Return the whole body.

        Raises:
            TooLargeError: it is, or unpacks to, more than the limit.
            InvalidError: its length or its packing is not sound.
            DeadlineError: it did not come in time.
        """
        length = headers.get("content-length")
        reading, task = self._reading, asyncio.current_task(self._loop)
        key = id(task)
        reading[key] = (self._now + self._limits.body_s, task)
        try:
            if (
                length is not None
                and length.isdecimal()
                and len(length) < 16
                and int(length) <= self._limits.body_bytes
            ):
                body = await proto()
            else:
                body = await self._whole(proto, length)
        except asyncio.CancelledError:
            if key in reading or task is None:
                raise
            task.uncancel()
            raise DeadlineError("the body did not come in time", why=f"{self._limits.body_s:g} s") from None
        except ProtocolClosed:
            raise InvalidError("the body ends early", why="the client closed the connection") from None
        finally:
            reading.pop(key, None)
        encoding = headers.get("content-encoding")
        return body if not encoding or encoding == "identity" else self._unpacked(body, encoding)

    async def _whole(self, proto: Any, length: str | None) -> bytes:
        limit = self._limits.body_bytes
        if length is not None:
            if not length.isdecimal():
                raise InvalidError("`Content-Length` is no number", why=f"it is {length[:40]!r}")
            raise _too_large(limit)
        body, pieces = bytearray(), 0
        async for piece in proto:
            body += piece
            pieces += 1
            if len(body) > limit:
                raise _too_large(limit)
            if pieces > _PIECES + len(body) // _PIECE_BYTES:
                raise InvalidError("the body comes in too many pieces", hint="send larger chunks, or Content-Length")
        return bytes(body)

    def _unpacked(self, body: bytes, encoding: str) -> bytes:
        wbits = _WBITS.get(encoding.lower())
        if wbits is None:
            raise UnsupportedError(f"`Content-Encoding: {encoding[:40]}` is not known", why="known: gzip, deflate")
        machine = zlib.decompressobj(wbits)
        try:
            found = machine.decompress(body, self._limits.body_bytes + 1)
        except zlib.error as error:
            raise InvalidError(f"the body is not {encoding}", why=str(error)[:100]) from None
        if len(found) > self._limits.body_bytes or machine.unconsumed_tail:
            raise _too_large(self._limits.body_bytes)
        if not machine.eof:
            raise InvalidError(f"the {encoding} body ends early")
        return found

    def sweep(self) -> None:
        """End the reading of bodies whose time is over."""
        self._now, self._loop = time.monotonic(), asyncio.get_running_loop()
        for key, (until, task) in list(self._reading.items()):
            if self._now > until and task is not None:
                del self._reading[key]
                task.cancel()


def packed(body: bytes, accepted: str | None) -> tuple[bytes, str]:
    """Return an answer's body as the client takes it, and its `Content-Encoding`, empty for none."""
    if not accepted or len(body) < _WORTH_BYTES:
        return body, ""
    names = {part.split(";")[0].strip().lower() for part in accepted.split(",") if "q=0" not in part.replace(" ", "")}
    for name, wbits in _WBITS.items():
        if name in names:
            machine = zlib.compressobj(1, zlib.DEFLATED, wbits)
            return machine.compress(body) + machine.flush(), name
    return body, ""


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        "the body is too large", why=f"at most {limit} bytes are read", hint="send fewer rows, or raise --max-body"
    )
