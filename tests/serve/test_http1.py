"""The HTTP/1.1 of a worker on real sockets, with an application that does what the test says."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tilth.core.errors import InvalidError, TilthError
from tilth.serve.door import HttpDoor
from tilth.serve.http1 import Call, Reply
from tilth.serve.limits import Limits

SOON_S = 8.0
LIMITS = Limits(body_bytes=1 << 20, header_bytes=4096, connections=4, header_s=0.4, body_s=0.6, idle_s=1.2)
Made = Reply | Awaitable[Reply]


class Told:
    """Answers with method, path and body; `/slow` waits for `free`, `/large` answers with 8 MB, `/no` is refused."""

    def __init__(self) -> None:
        self.seen: list[Call] = []
        self.cancelled = threading.Event()
        self.free = asyncio.Event()

    def admit(self, call: Call) -> Reply | None:
        return self.refused(InvalidError("no"), call) if call.target == "/no" else None

    def answer(self, call: Call) -> Made:
        self.seen.append(call)
        if call.target == "/slow":
            return self._slow(call)
        if call.target == "/large":
            return 200, b"", bytes(8 << 20)
        return self._echo(call)

    def _echo(self, call: Call) -> Reply:
        return 200, b"x-told: 1\r\n", f"{call.method} {call.target} {len(call.body)}".encode()

    async def _slow(self, call: Call) -> Reply:
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return self._echo(call)

    def refused(self, error: TilthError, call: Call | None) -> Reply:
        return {"InvalidError": 400, "SlowError": 408, "TooLargeError": 413}.get(type(error).__name__, 431), b"", b"no"


class Site:
    """A door on a thread of its own."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.app = Told()
        self.door = HttpDoor(self.app, self._listener.detach(), limits, None)
        self._thread.start()
        self.do(self._open())

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        await self.door.open()
        self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            self.door.sweep()
            await asyncio.sleep(0.05)

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SOON_S)

    def free(self) -> None:
        self._loop.call_soon_threadsafe(self.app.free.set)

    def connect(self) -> socket.socket:
        made = socket.create_connection(self.address, SOON_S)
        made.settimeout(SOON_S)
        return made

    async def _end(self) -> None:
        await self.door.close(0.2)
        self._sweeping.cancel()
        await asyncio.wait([self._sweeping])

    def close(self) -> None:
        self.do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SOON_S)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def get(path: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: x", *lines, "", "")).encode()


def post(data: bytes, *lines: str, path: str = "/") -> bytes:
    return get(path, f"Content-Length: {len(data)}", *lines, method="POST") + data


def one(connection: socket.socket, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
    """Read exactly one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1)
        assert piece, f"closed after {data!r}"
        data += piece
    first, *lines = data.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    left, found = int(headers.get("content-length", 0)) if body else 0, b""
    while len(found) < left:
        piece = connection.recv(left - len(found))
        assert piece, "closed in the middle of a body"
        found += piece
    return int(first.split()[1]), headers, found


def rest(connection: socket.socket) -> bytes:
    """Read until the connection is closed; a reset is a close, too."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


# -- connections that stay, and that do not


def test_an_idle_connection_is_not_closed_as_soon_as_a_silent_one(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get())
        one(connection)
        time.sleep(LIMITS.header_s + 0.3)
        connection.sendall(get("/again"))
        assert one(connection)[2] == b"GET /again 0"


def test_an_idle_connection_is_closed_at_last_and_a_silent_one_sooner(site: Site) -> None:
    with site.connect() as silent, site.connect() as idle:
        idle.sendall(get())
        one(idle)
        began = time.monotonic()
        assert rest(silent) == b""
        sooner = time.monotonic() - began
        assert rest(idle) == b"" and sooner < time.monotonic() - began


@pytest.mark.parametrize(
    ("data", "stays"),
    [
        (get(), True),
        (get("/", "Connection: close"), False),
        (get(version="1.0"), False),
        (get("/", "Connection: keep-alive", version="1.0"), True),
    ],
)
def test_a_connection_stays_only_when_the_client_means_it(site: Site, data: bytes, stays: bool) -> None:
    with site.connect() as connection:
        connection.sendall(data)
        _, headers, _ = one(connection)
        assert (headers.get("connection") != "close") is stays
        if not stays:
            assert rest(connection) == b""


def test_a_client_that_closed_its_side_still_gets_its_answer(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/slow"))
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        site.free()
        assert one(connection)[2] == b"GET /slow 0" and rest(connection) == b""


def test_work_for_a_client_that_left_is_cancelled(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/slow"))
        until(lambda: bool(site.app.seen))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert site.app.cancelled.wait(SOON_S)


def test_the_oldest_idle_connection_makes_room_and_no_busy_one_does(site: Site) -> None:
    busy = site.connect()
    busy.sendall(get("/slow"))
    until(lambda: bool(site.app.seen))
    idle = []
    for _ in range(LIMITS.connections - 1):
        idle.append(site.connect())
        idle[-1].sendall(get())
        one(idle[-1])
    with site.connect() as newest:
        newest.sendall(get("/new"))
        assert one(newest)[2] == b"GET /new 0"
        assert rest(idle[0]) == b""
        idle[-1].sendall(get("/last"))
        assert one(idle[-1])[2] == b"GET /last 0"
    site.free()
    assert one(busy)[2] == b"GET /slow 0"
    for connection in (busy, *idle):
        connection.close()


def test_a_full_door_takes_the_next_one_when_there_is_room_again(site: Site) -> None:
    busy = [site.connect() for _ in range(LIMITS.connections)]
    for connection in busy:
        connection.sendall(get("/slow"))
    until(lambda: len(site.app.seen) == LIMITS.connections)
    with site.connect() as waiting:
        waiting.sendall(get("/late"))
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        waiting.settimeout(SOON_S)
        site.free()
        for connection in busy:
            one(connection)
            connection.close()
        assert one(waiting)[2] == b"GET /late 0"


def test_an_end_lets_what_began_finish_and_takes_nothing_new(site: Site) -> None:
    with site.connect() as busy, site.connect() as idle:
        idle.sendall(get())
        one(idle)
        busy.sendall(get("/slow"))
        until(lambda: len(site.app.seen) == 2)
        ending = threading.Thread(target=lambda: site.do(site.door.close(SOON_S)))
        ending.start()
        assert rest(idle) == b""
        with pytest.raises(OSError):
            site.connect()
        site.free()
        status, headers, _ = one(busy)
        assert status == 200 and headers["connection"] == "close" and rest(busy) == b""
        ending.join(SOON_S)


# -- one request after the other


def test_answers_of_a_pipeline_keep_their_order_behind_a_slow_one(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/slow") + b"".join(get(f"/{index}") for index in range(100)))
        time.sleep(0.2)
        assert len(site.app.seen) == 1
        site.free()
        assert one(connection)[2] == b"GET /slow 0"
        assert [one(connection)[2] for _ in range(100)] == [f"GET /{index} 0".encode() for index in range(100)]


def test_a_request_in_single_bytes_is_one_request(site: Site) -> None:
    with site.connect() as connection:
        for byte in post(b"four", path="/bytes"):
            connection.sendall(bytes([byte]))
        assert one(connection)[2] == b"POST /bytes 4"


def test_a_body_in_pieces_is_whole(site: Site) -> None:
    data = bytes(range(256)) * 2048
    with site.connect() as connection:
        connection.sendall(post(data))
        assert one(connection)[2] == f"POST / {len(data)}".encode()
    assert bytes(site.app.seen[0].body) == data


def test_a_body_in_chunks_is_whole_and_its_trailers_are_no_headers(site: Site) -> None:
    chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nAuthorization: Bearer x\r\nHost: evil\r\n\r\n"
    with site.connect() as connection:
        connection.sendall(get("/", "Transfer-Encoding: chunked", method="POST") + chunks + get("/next"))
        assert one(connection)[2] == b"POST / 5" and one(connection)[2] == b"GET /next 0"
    assert bytes(site.app.seen[0].body) == b"abcde"
    assert "authorization" not in site.app.seen[0].headers and site.app.seen[0].headers["host"] == "x"


def test_a_head_has_the_length_and_no_body(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get(method="HEAD") + get("/next"))
        status, headers, _ = one(connection, body=False)
        assert status == 200 and headers["content-length"] == "8"
        assert one(connection)[2] == b"GET /next 0"


def test_a_client_that_asks_first_is_told_to_go_on(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert one(connection)[0] == 100
        connection.sendall(b"abc")
        assert one(connection)[2] == b"POST / 3"


def test_a_client_that_asks_first_is_not_told_to_send_what_is_refused(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/no", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert one(connection)[0] == 400


def test_a_client_that_would_rather_speak_http_2_is_answered(site: Site) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    with site.connect() as connection:
        connection.sendall(post(b"abc", *offer))
        assert one(connection)[2] == b"POST / 3"
    with site.connect() as connection:
        connection.sendall(get("/plain", *offer))
        assert one(connection)[2] == b"GET /plain 0"


def test_a_path_is_without_its_query_and_its_escapes(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/a%20b?c=%64"))
        assert one(connection)[2] == b"GET /a b 0"


# -- what is not taken


def test_a_refusal_is_seen_although_the_client_still_sends(site: Site) -> None:
    for path, size, status in (("/no", 600_000, 400), ("/", 600 << 20, 413)):
        with site.connect() as connection:
            connection.sendall(get(path, f"Content-Length: {size}", method="POST"))
            time.sleep(0.1)
            connection.sendall(bytes(500_000))
            assert one(connection)[0] == status


def test_a_refusal_of_a_whole_request_keeps_the_connection(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(post(b"abc", path="/no") + get("/next"))
        assert one(connection)[0] == 400 and one(connection)[2] == b"GET /next 0"


def test_a_body_that_is_refused_takes_no_memory_and_no_second_place(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(get("/", "Transfer-Encoding: chunked", method="POST"))
        for _ in range(40):
            connection.sendall(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        assert one(connection)[0] == 413
    assert not site.app.seen


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 3", "Content-Length: 3"),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: 3, 3",),
        ("Content-Length: 3", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Host: y",),
        ("Authorization: Bearer a", "Authorization: Bearer b"),
        (" folded: yes",),
        ("X: a\x00b",),
    ],
    ids=repr,
)
def test_a_head_that_two_readers_would_read_differently_is_refused(site: Site, lines: tuple[str, ...]) -> None:
    with site.connect() as connection:
        connection.sendall(get("/", *lines, method="POST") + b"3\r\nabc\r\n0\r\n\r\n" + get("/smuggled"))
        status, headers, _ = one(connection)
        assert status == 400 and headers["connection"] == "close" and rest(connection) == b""
    assert not site.app.seen


@pytest.mark.parametrize("target", ["http://evil/", "*", "x", "//" + "a" * 3000])
def test_a_target_that_is_not_a_path_is_refused(site: Site, target: str) -> None:
    with site.connect() as connection:
        connection.sendall(get(target))
        assert one(connection)[0] == 400
    assert not site.app.seen


def test_a_request_behind_a_large_body_is_not_taken_for_large_headers(site: Site) -> None:
    chunked = get("/", "Transfer-Encoding: chunked", method="POST") + b"9000\r\n" + bytes(0x9000) + b"\r\n0\r\n\r\n"
    for first in (chunked, post(bytes(12_000))):
        with site.connect() as connection:
            connection.sendall(b"GET /a HT")
            time.sleep(0.05)
            connection.sendall(b"TP/1.1\r\nHost: x\r\n\r\n" + first + get("/next")[:-4])
            time.sleep(0.1)
            connection.sendall(b"\r\n\r\n")
            assert [one(connection)[0] for _ in range(3)] == [200, 200, 200]


def test_a_line_without_end_is_cut_off(site: Site) -> None:
    for start in (b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX"):
        with site.connect() as connection:
            connection.sendall(start)
            time.sleep(0.05)
            connection.sendall(b"a" * 100_000)
            assert one(connection)[0] in (400, 431)


@pytest.mark.parametrize("more", [b"a" * 100, b"\r\nx\r\n0\r\n" + b"A: b\r\n"], ids=["extension", "trailers"])
def test_what_comes_beside_a_body_without_end_is_cut_off(site: Site, more: bytes) -> None:
    with site.connect() as connection:
        connection.sendall(get("/", "Transfer-Encoding: chunked", method="POST") + b"1;")
        time.sleep(0.05)
        connection.sendall(more)
        for _ in range(300):
            try:
                connection.sendall((more[-6:]) * 500)
            except (BrokenPipeError, ConnectionResetError):
                break
        assert one(connection)[0] == 400


def test_slow_headers_and_slow_bodies_are_told_so(site: Site) -> None:
    for data in (b"GET / HT", post(b"")[:-4] + b"\r\nX: 1", get("/", "Content-Length: 9", method="POST") + b"1"):
        with site.connect() as connection:
            connection.sendall(data)
            assert one(connection)[0] == 408


def test_a_client_that_does_not_read_is_let_go_and_a_slow_one_is_not(site: Site) -> None:
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(get("/large") * 3)
        time.sleep(4 * LIMITS.body_s)
        assert len(rest(connection)) < 3 * (8 << 20)
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(get("/large"))
        left = 8 << 20
        while left > 0:
            time.sleep(0.02)
            piece = connection.recv(min(left, 1 << 17))
            assert piece, f"closed with {left} bytes left"
            left -= len(piece)


def test_a_door_forgets_connections_that_are_gone() -> None:
    site = Site(replace(LIMITS, connections=100))
    for _ in range(50):
        with site.connect() as connection:
            connection.sendall(get())
            one(connection)
    until(lambda: not site.door._room.connections and not site.door._room.waiting and not site.door._beginning)
    site.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
