"""HTTP/1.1 on the event loop of a worker: one connection, its requests answered in order, all within limits.

llhttp reads what comes (through httptools), strictly; this file decides how much of it is taken and for how long.
Sources: RFC 9110 (semantics) and RFC 9112 (HTTP/1.1).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
import numpy as np

from tilth.core.errors import InvalidError, TilthError
from tilth.serve.body import too_large
from tilth.serve.failure import HeadersTooLargeError, SlowError
from tilth.serve.limits import Limits

#: Status, header lines that each end with CRLF, and the body.
Reply = tuple[int, bytes, bytes]
#: Headers that say who asks, for whom, and where a message ends; two of one would let two readers see two requests.
_SINGLE = frozenset(
    ("host", "origin", "authorization", "content-length", "transfer-encoding", "inference-header-content-length")
)
_MOST_TARGET = 2048
#: What a header counts more than it has, as in RFC 9113, 6.5.2: many short ones cost more than a long one.
_HEADER_BYTES = 32
#: Pieces of a body without a length: this many may be of any size, after which they must average so many bytes.
_PIECES, _PIECE_BYTES = 1024, 256
#: What may come beside a body in chunks: a share of it, and so many bytes.
_PADDING, _PADDING_BYTES = 4, 1 << 17
#: Requests of one pipeline that are answered before other connections have their turn.
_TURN = 16
#: How long a client may go on sending what is not read any more, so that it comes to see the refusal.
_LINGER_S = 2.0
#: Up to here head and body are one piece to write.
_JOINED_BYTES = 1 << 16
_SCRATCH_BYTES = 1 << 16
#: From here on the rest of a body is read to where it is used rather than parsed.
_PLACED_BYTES = 1 << 14
_ALIGNMENT = 64
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_LINES[499] = b"HTTP/1.1 499 Client Closed Request\r\n"
_WAITING, _HEAD, _BODY, _DEAF = range(4)


@dataclass(slots=True)
class Call:
    """One request. Header names are in lower case; `route` is the application's own, between `admit` and `answer`."""

    method: str
    target: str
    headers: dict[str, str]
    client: str
    body: bytes | bytearray | memoryview = b""
    keep_alive: bool = True
    route: Any = None
    began_ns: int = 0


class App(Protocol):
    """What answers; none of its methods raises."""

    def admit(self, call: Call) -> Reply | None:
        """Return a refusal when the head alone is reason enough; the body is not read then."""

    def answer(self, call: Call) -> Reply | Awaitable[Reply]:
        """Answer a whole request that was admitted."""

    def refused(self, error: TilthError, call: Call | None) -> Reply:
        """Return the answer to what is no request, or whose body is not taken."""


@dataclass
class Room:
    """What the connections of one door share. `now` is about what `time.monotonic` says, renewed by `tick`."""

    app: App
    limits: Limits
    now: float = 0.0
    draining: bool = False
    date: bytes = b""
    connections: set["Connection"] = field(default_factory=set)
    #: Those that are between two requests, the longest idle first.
    waiting: dict["Connection", None] = field(default_factory=dict)
    #: What comes is read into this and parsed at once, but for large bodies.
    scratch: memoryview = field(default_factory=lambda: memoryview(bytearray(_SCRATCH_BYTES)))

    def tick(self, now: float) -> None:
        """Renew the time, and end what took too long."""
        self.now = now
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        for connection in list(self.connections):
            connection.look(now)


class Connection(asyncio.BufferedProtocol):
    """One connection to a `Room`."""

    def __init__(self, room: Room) -> None:
        self._room, self._app, self._limits = room, room.app, room.limits
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._client = ""
        self._state = _WAITING
        #: When what it does now has taken too long, and when what is written has; 0 for never.
        self._until = self._write_until = 0.0
        self._unsent = 0
        self._url, self._headers, self._head_bytes = b"", dict[str, str](), 0
        self._call: Call | None = None
        self._refusal: Reply | None = None
        self._pieces = self._raw = 0
        #: A large body of a known length, read into its place, and how much of it is there.
        self._body: memoryview | None = None
        self._filled = 0
        self._upgrade = False
        #: Whole requests in order, those with an answer already among them.
        self._queue: deque[tuple[Call | None, Reply | None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._full = self._paused = self._ending = self._again = False

    # -- the transport

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, not as long as between two."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._rest(self._limits.header_s)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it, and end what nobody waits for any more."""
        self._room.connections.discard(self)
        self._room.waiting.pop(self, None)
        self._queue.clear()
        self._state = _DEAF
        if self._task is not None:
            self._task.cancel()
        # It holds this object, and this one it.
        self._parser = self._call = None

    def eof_received(self) -> bool:
        """Finish what was asked; a client may close its side once it has said everything."""
        self._ending = True
        return self._task is not None or bool(self._queue)

    def pause_writing(self) -> None:
        """Answer no more requests of a client that does not read."""
        self._full, self._write_until = True, self._room.now + self._limits.body_s
        self._unsent = self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Go on."""
        self._full, self._write_until = False, 0.0
        self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read what comes next."""
        return self._room.scratch if self._body is None else self._body[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take what has come, and answer the requests that are whole."""
        if self._state is _DEAF:
            return
        if self._body is None:
            self._feed(self._room.scratch[:count])
        else:
            self._filled += count
            if self._filled == len(self._body):
                self._complete()
        self._advance()

    def _feed(self, data: memoryview) -> None:
        rest, inside = data[:0], self._state is _BODY
        # Another request may begin in what comes; of the two, this is the one whose head goes on.
        head = self._headers if self._state is _HEAD else None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, TilthError) else _unsound(str(error)))
        if self._state is _HEAD:
            self._head_bytes += len(data) if self._headers is head else 0
            if self._head_bytes > 2 * self._limits.header_bytes:
                self._refuse(_headers_too_large(self._limits.header_bytes))
        elif self._state is _BODY and inside and self._is_padded(len(data)):
            self._refuse(InvalidError("there is too much beside the body", hint="send fewer chunks and no extensions"))
        elif self._state is _BODY and self._refusal is not None:
            # The rest of its body is not read.
            self._end_with(self._call, self._refusal)
        elif self._state is _BODY and self._call is not None:
            self._make_place(self._call, rest)
        elif self._upgrade:
            # Answered like any other request; after it the client speaks something else.
            self._state = _DEAF

    def _is_padded(self, more: int) -> bool:
        """Return whether chunk sizes, extensions and trailers take what nobody needs."""
        self._raw += more
        size = len(self._call.body) if self._call is not None else 0
        return self._raw > size + size // _PADDING + _PADDING_BYTES

    def _make_place(self, call: Call, rest: memoryview) -> None:
        """Read what is left of a large body, or of one that llhttp leaves alone, straight to where it is used."""
        size = int(call.headers.get("content-length", 0))
        left = size - len(call.body)
        if left < _PLACED_BYTES and not self._upgrade:
            return
        # Only what is written takes memory. Tensors behind a head of JSON begin at an aligned address.
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        head = call.headers.get("inference-header-content-length", "")
        shift = int(head) if head.isdecimal() and len(head) < 16 else 0
        start = -(memory.ctypes.data + shift) % _ALIGNMENT
        body = memoryview(memory)[start : start + size]  # type: ignore[arg-type]
        came = call.body or rest[:size]
        body[: len(came)] = came
        self._body, self._filled = body, len(came)
        if self._filled == size:
            self._complete()

    def _complete(self) -> None:
        """Put a request in the queue whose body is in its place."""
        call, body = self._call, self._body
        if call is not None and body is not None:
            call.body, self._body = body, None
        # The one before has not seen the body and waits for it.
        self._parser = httptools.HttpRequestParser(self)
        upgrade, self._upgrade = self._upgrade, False
        self.on_message_complete()
        if upgrade:
            self._state = _DEAF

    def look(self, now: float) -> None:
        """End what took too long."""
        if self._transport is None:
            return  # in a handshake, which has a limit of its own
        if self._write_until and now > self._write_until:
            unsent = self._transport.get_write_buffer_size()
            if unsent >= self._unsent:
                self._transport.abort()
                return
            self._unsent, self._write_until = unsent, now + self._limits.body_s
        if not self._until or now <= self._until:
            return
        if self._state is _WAITING:
            self._transport.close()
        elif self._state is _DEAF:
            self._transport.abort()
        else:
            part = "headers" if self._state is _HEAD else "body"
            limit_s = self._limits.header_s if self._state is _HEAD else self._limits.body_s
            self._refuse(SlowError(f"the {part} did not come in time", why=f"{limit_s:g} s"))
            self._advance()

    def drain(self) -> None:
        """Take no more requests than those that have begun."""
        if self._transport is not None and self._state is _WAITING and self._task is None and not self._queue:
            self._transport.close()

    def evict(self) -> None:
        """Make room for another one."""
        self._room.waiting.pop(self, None)
        self._room.connections.discard(self)
        if self._transport is not None:
            self._transport.abort()

    # -- llhttp's callbacks

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._room.waiting.pop(self, None)
        self._state, self._until = _HEAD, self._room.now + self._limits.header_s
        self._url, self._headers, self._head_bytes = b"", {}, 0
        self._refusal, self._pieces, self._raw = None, 0, 0

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._url += url
        if len(self._url) > _MOST_TARGET:
            raise InvalidError("the path is too long", why=f"at most {_MOST_TARGET} characters are read")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what is behind a body in chunks is not taken."""
        if self._state is not _HEAD:
            return
        self._head_bytes += len(name) + len(value) + _HEADER_BYTES
        if self._head_bytes > self._limits.header_bytes:
            raise _headers_too_large(self._limits.header_bytes)
        key, text = name.lower().decode("latin-1"), value.decode("latin-1")
        headers = self._headers
        if key in headers:
            if key in _SINGLE:
                raise InvalidError(f"the header `{key}` is there twice", hint="send it once")
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        """Let the application refuse a request whose body is not worth reading."""
        parser, headers, limits = self._parser, self._headers, self._limits
        target = self._url.decode("latin-1").partition("?")[0]
        call = self._call = Call(parser.get_method().decode("latin-1"), target, headers, self._client)
        call.keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._state, self._until = _BODY, self._room.now + limits.body_s
        coding = headers.get("transfer-encoding")
        if parser.get_http_version() != "1.1" and (parser.get_http_version() != "1.0" or coding):
            raise InvalidError("the version of HTTP is not spoken here", hint="send HTTP/1.1")
        if coding is not None and coding.lower() != "chunked":
            raise InvalidError("the transfer coding is not known", why=f"it is {coding[:40]!r}", hint="send `chunked`")
        if target[:1] != "/":
            raise InvalidError("the target is not a path", hint="send one that begins with `/`")
        if "%" in target:
            call.target = _decoded(target)
        self._refusal = self._app.admit(call)
        length = headers.get("content-length")
        if self._refusal is not None:
            return
        self._upgrade = parser.should_upgrade()
        if self._upgrade and coding is not None:
            raise InvalidError("an upgrade is offered with a body in chunks", hint="send Content-Length")
        if length is not None and int(length) > limits.body_bytes:
            self._refusal = self._app.refused(too_large(limits.body_bytes), call)
        elif headers.get("expect", "").lower() == "100-continue" and (int(length or 0) or coding) and not self._queue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        call = self._call
        if call is None or self._refusal is not None:
            return
        self._pieces += 1
        if not call.body:
            call.body = data
        elif isinstance(call.body, bytearray):
            call.body += data
        else:
            call.body = bytearray(call.body) + data
        size, limit = len(call.body), self._limits.body_bytes
        if size > limit:
            self._refusal = self._app.refused(too_large(limit), call)
        elif self._pieces > _PIECES + size // _PIECE_BYTES and "content-length" not in call.headers:
            told = InvalidError("the body comes in too many pieces", hint="send larger chunks, or Content-Length")
            self._refusal = self._app.refused(told, call)

    def on_message_complete(self) -> None:
        """Put a whole request in the queue."""
        if self._upgrade and self._refusal is None and int(self._headers.get("content-length", 0)):
            # llhttp takes the body for the other protocol's.
            return
        self._queue.append((self._call, self._refusal))
        self._state, self._until, self._call, self._refusal = _WAITING, 0.0, None, None

    # -- answers

    def _advance(self) -> None:
        """Answer what can be, and read on when nothing waits."""
        turns = _TURN
        while self._queue and self._task is None and not self._full:
            if not turns:
                # At most one of these is under way.
                if not self._again:
                    self._again = True
                    asyncio.get_running_loop().call_soon(self._go_on)
                break
            turns -= 1
            call, reply = self._queue.popleft()
            if reply is None and call is not None:
                made = self._app.answer(call)
                if type(made) is not tuple:
                    self._task = asyncio.get_running_loop().create_task(self._wait(call, made))  # type: ignore[arg-type]
                    break
                reply = made
            self._send(call, reply)  # type: ignore[arg-type]
        if self._transport.is_closing():
            return
        if bool(self._queue) is not self._paused:
            self._paused = not self._paused
            if self._paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if self._state is _WAITING and self._task is None and not self._queue and not self._until:
            self._rest(self._limits.idle_s)

    def _go_on(self) -> None:
        self._again = False
        self._advance()

    async def _wait(self, call: Call, made: Awaitable[Reply]) -> None:
        reply = await made
        self._task = None
        self._send(call, reply)
        self._advance()

    def _rest(self, seconds: float) -> None:
        """Wait for the next request."""
        if self._room.draining or self._ending:
            self._transport.close()
            return
        self._until = self._room.now + seconds
        self._room.waiting[self] = None

    def _refuse(self, error: TilthError) -> None:
        self._end_with(self._call, self._app.refused(error, self._call))

    def _end_with(self, call: Call | None, reply: Reply) -> None:
        """Answer what came before, and this, and read nothing more."""
        self._state, self._until, self._refusal, self._body = _DEAF, 0.0, None, None
        if call is not None:
            call.keep_alive = False
        self._queue.append((call, reply))

    def _send(self, call: Call | None, reply: Reply) -> None:
        transport = self._transport
        if transport.is_closing():
            self._queue.clear()
            return
        status, lines, body = reply
        last = call is None or not call.keep_alive
        if not last and not self._queue:
            last = self._ending or (self._room.draining and self._state is _WAITING)
        close = b"connection: close\r\n" if last else b""
        head = b"%b%b%bcontent-length: %d\r\n%b\r\n" % (_LINES[status], self._room.date, lines, len(body), close)
        if call is not None and call.method == "HEAD":
            transport.write(head)
        elif len(body) <= _JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if last:
            self._close()

    def _close(self) -> None:
        """Close the connection, and where the client may still be sending, let it see the answer first."""
        self._queue.clear()
        transport, more = self._transport, self._state is _DEAF and not self._ending
        self._state = _DEAF
        if more and transport.can_write_eof():
            transport.write_eof()
            self._until = self._room.now + _LINGER_S
        else:
            transport.close()
            self._until = self._room.now + self._limits.body_s


def _decoded(target: str) -> str:
    """Return a path without its escapes; as it is, which nothing has for a name, when they are no text."""
    try:
        return unquote(target, errors="strict")
    except UnicodeDecodeError:
        return target


def _unsound(why: str) -> InvalidError:
    return InvalidError("this is no sound HTTP", why=why[:200], hint="send HTTP/1.1")


def _headers_too_large(limit: int) -> HeadersTooLargeError:
    return HeadersTooLargeError("the headers are too large", why=f"at most {limit} bytes are read")
