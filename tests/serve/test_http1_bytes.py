"""Whatever bytes come, and however they are cut, a connection answers sound HTTP that is never a fault of the server.

`TILTH_FUZZ_CASES=100000 pytest tests/serve/test_http1_bytes.py` looks at that many cases for each.
"""

import os
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import InvalidError, TilthError
from tilth.serve.http1 import Call, Connection, Reply, Room
from tilth.serve.limits import Limits
from tilth.serve.status import http_status

CASES = int(os.environ.get("TILTH_FUZZ_CASES", "150"))
many = settings(max_examples=CASES, deadline=None)
LIMITS = Limits(body_bytes=100_000, header_bytes=1024)
ANSWER = re.compile(
    rb"HTTP/1\.1 (\d{3}) [A-Za-z- ]+\r\ndate: [^\r\n]+\r\ncontent-length: (\d+)\r\n(connection: close\r\n)?\r\n"
)


class App:
    """Answers with all that it was asked, the body in hex lest it look like HTTP; refuses one path by its head."""

    def admit(self, call: Call) -> Reply | None:
        return self.refused(InvalidError("no"), call) if call.target == "/no" else None

    def answer(self, call: Call) -> Reply:
        return 200, b"", f"{call.method} {call.target} {sorted(call.headers)} {bytes(call.body).hex()}".encode()

    def refused(self, error: TilthError, call: Call | None) -> Reply:
        return http_status(error), b"", b"refused"


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def writelines(self, pieces: Any) -> None:
        for piece in pieces:
            self.write(piece)

    def write_eof(self) -> None:
        self.closing = True

    close = abort = write_eof

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


def exchange(data: bytes, cuts: list[int]) -> bytes:
    """Return what a connection writes to bytes that come in pieces, cut at these places."""
    room, transport = Room(App(), LIMITS), Transport()
    room.date = b"date: now\r\n"
    connection = Connection(room)
    connection.connection_made(transport)
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    at = 0
    for end in ends:
        while at < end and not transport.closing:
            into = connection.get_buffer(-1)
            assert len(into) > 0
            size = min(len(into), end - at)
            into[:size] = data[at : at + size]
            connection.buffer_updated(size)
            at += size
    connection.eof_received()
    connection.connection_lost(None)
    assert not room.connections - {connection} and not room.waiting
    return bytes(transport.written)


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of answers that are sound to their last byte."""
    found, at = [], 0
    while at < len(answer):
        if answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n", at):
            at += 25
            continue
        match = ANSWER.match(answer, at)
        assert match is not None, answer[at : at + 200]
        at = match.end()
        # The last one may answer a HEAD, which has a length and no body; bodies here never look like a head.
        if not ANSWER.match(answer, at) and at < len(answer):
            at += int(match[2])
        found.append(int(match[1]))
        assert not match[3] or at == len(answer), "something follows the last answer"
    assert at == len(answer)
    return found


NAMES = st.sampled_from(["X", "Content-Type", "Accept", "Expect", "Connection", "Upgrade", "Transfer-Encoding", "Host"])
VALUES = st.sampled_from(["a", "chunked", "close", "keep-alive", "100-continue", "h2c", "Upgrade", "", "gzip, chunked"])


@st.composite
def requests(draw: Any) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"]))
    path = draw(st.sampled_from(["/", "/no", "/a%20b?c", "/%ff", "*", "x:1", "http://x/"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0"]))
    lines = [f"{method} {path} HTTP/{version}", "Host: x"]
    lines += [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=2))]
    body = draw(st.binary(max_size=40) | st.sampled_from([b"y" * 40_000, b"z" * 120_000]))
    form = draw(st.sampled_from(["none", "length", "length", "chunks"]))
    if form == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif form == "chunks":
        lines.append("Transfer-Encoding: chunked")
        size = draw(st.integers(1, 50_000))
        pieces = [body[at : at + size] for at in range(0, len(body), max(size, len(body) // 20 + 1))]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
    else:
        body = b""
    return "\r\n".join((*lines, "", "")).encode() + body


PIPELINES = st.lists(requests(), min_size=1, max_size=4).map(b"".join)
CUTS = st.lists(st.integers(0, 200_000), max_size=6)


@many
@given(st.binary(max_size=300) | PIPELINES, CUTS)
def test_no_bytes_are_a_fault_and_every_answer_is_whole(data: bytes, cuts: list[int]) -> None:
    assert all(200 <= status < 500 for status in statuses(exchange(data, cuts)))


@many
@given(PIPELINES, st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4), CUTS)
def test_no_changed_byte_is_a_fault(data: bytes, changes: list[tuple[int, int]], cuts: list[int]) -> None:
    changed = bytearray(data)
    for at, byte in changes:
        changed[at % len(changed)] = byte
    assert all(200 <= status < 500 for status in statuses(exchange(bytes(changed), cuts)))


@many
@given(PIPELINES, CUTS)
def test_what_is_answered_does_not_depend_on_where_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    """Of refused requests the connection may end sooner or later, so that one answer begins the other."""
    # Whether a client is told to go on depends on whether it went on already (RFC 9110, 10.1.1).
    whole, cut = (exchange(data, one).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"") for one in ([], cuts))
    shorter, longer = sorted((whole, cut), key=len)
    refused = max(statuses(shorter), default=0) >= 400
    assert longer.startswith(shorter[: shorter.rfind(b"HTTP/1.1 ")] if refused else shorter)
    if all(status < 400 for status in statuses(longer)):
        assert whole == cut
