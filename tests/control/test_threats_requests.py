"""Requests that try another door, that never end, or that two programs read in two ways; against a real port."""

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plane import Up, World, sample, world
from starlette.requests import Request

from tilth.control.api.body import gathered
from tilth.core.digest import canonical_json, digest
from tilth.core.errors import UnavailableError

LATE_S = 15.0


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Up(tmp_path_factory.mktemp("requests") / "home") as up:
        yield world(up)


@pytest.fixture
def up(crowd: World) -> Iterator[Up]:
    """The control plane, which still answers and has no more events at the end of each test."""
    found: Up = crowd.asks
    before = found.events()
    yield found
    assert found.events() == before
    assert "Traceback" not in found.log()


def raw(up: Up, data: bytes, *, limit_s: float = LATE_S) -> bytes:
    """Send bytes as they are, and return what comes until the other side is silent or ends."""
    with socket.create_connection(("127.0.0.1", up.port), timeout=limit_s) as own:
        with contextlib.suppress(OSError):
            own.sendall(data)
        made = b""
        with contextlib.suppress(OSError):
            while part := own.recv(65536):
                made += part
                if b"\r\n\r\n" in made and (data.startswith(b"HEAD ") or _is_whole(made)):
                    break
        return made


def _is_whole(made: bytes) -> bool:
    head, _, body = made.partition(b"\r\n\r\n")
    length = next((int(one[15:]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")), None)
    return length is not None and len(body) >= length


def status(answer: bytes) -> int:
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def head(up: Up, method: str, path: str, *more: str, who: str | None = None) -> bytes:
    token = up.secret if who is None else who
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{up.port}", *more]
    return "\r\n".join([*lines, *([f"Authorization: Bearer {token}"] if token else []), "", ""]).encode("latin-1")


# -- other doors to the same thing


@pytest.mark.parametrize(
    "path",
    [
        "//v1/users",
        "/v1//users",
        "/v1/users/",
        "/V1/users",
        "/v1/Users",
        "/v1/./users",
        "/v1/projects/../users",
        "/v1/%75sers",
        "/v1/users%2f",
        "/v1/users;x=1",
        "/v1/users%00",
        "/v1/users\\",
        "/console/../v1/users",
        "/static/../v1/users",
        "http://127.0.0.1/v1/users",
        "*",
    ],
)
def test_another_spelling_of_a_path_opens_nothing_without_a_token(path: str, up: Up) -> None:
    found = raw(up, head(up, "GET", path, who=""))
    # Below the console's root, it leads to the sign-in.
    assert status(found) in (303, 400, 401, 403, 404, 405), found[:200]
    assert b'"items"' not in found


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "POSTT"])
def test_another_verb_opens_nothing_without_a_token(method: str, up: Up) -> None:
    found = raw(up, head(up, method, "/v1/users", who=""))
    assert status(found) in (0, 400, 401, 403, 404, 405), found[:200]
    assert b"items" not in found and b"Bearer" not in found


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method", "_method"])
def test_a_verb_is_not_exchanged_by_a_header(header: str, crowd: World, up: Up) -> None:
    path = "/v1/projects/one/models/m/versions/1"
    assert status(raw(up, head(up, "GET", path, f"{header}: DELETE"))) == 200
    assert up.ask("GET", f"{path}?_method=DELETE").status_code in (200, 400)
    assert up.ask("GET", path).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-User: admin", "X-Remote-User: admin", "Remote-User: admin", "X-Forwarded-For: 127.0.0.1",
     "X-Original-URL: /v1/users", "X-Rewrite-URL: /v1/users", "Forwarded: for=127.0.0.1", "Cookie: token=admin"],
)  # fmt: skip
def test_a_header_that_a_proxy_would_set_says_nothing_of_who_asks(header: str, up: Up) -> None:
    assert status(raw(up, head(up, "GET", "/v1/users", header, who=""))) == 401


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Bearer ", "Bearer null", "Bearer undefined", "Basic YWRtaW46YWRtaW4=", "bearer: x", "Token x",
     "Bearer tilth_" + "A" * 43, "Bearer tilth_" + "A" * 8000, "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."],
)  # fmt: skip
def test_what_is_no_token_is_nobody(value: str, up: Up) -> None:
    assert status(raw(up, head(up, "GET", "/v1/users", f"Authorization: {value}", who=""))) in (400, 401)


def test_a_token_in_the_address_is_no_token(up: Up) -> None:
    for name in ("token", "access_token", "api_key", "authorization"):
        assert status(raw(up, head(up, "GET", f"/v1/users?{name}={up.secret}", who=""))) in (400, 401)


def test_two_tokens_in_a_request_are_not_one_of_them(crowd: World, up: Up) -> None:
    two = head(up, "GET", "/v1/users", f"Authorization: Bearer {crowd.people['viewer']}")
    assert status(raw(up, two)) in (400, 401, 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::ffff:a00:1]", ""]
)
def test_a_name_that_was_bound_to_this_machine_is_refused(host: str, up: Up) -> None:
    found = raw(up, f"GET /v1/users HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {up.secret}\r\n\r\n".encode())
    assert status(found) in (400, 403), found[:200]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_a_page_of_another_site_does_not_call_the_api(origin: str, up: Up) -> None:
    answer = up.ask("POST", "/v1/users", {"name": "evil"}, headers={"Origin": origin})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_a_form_can_send_is_not_taken_for_json(kind: str, up: Up) -> None:
    body = b'{"name": "evil"}'
    answer = up.ask("POST", "/v1/users", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 415), answer.text


# -- bodies


JSON: dict[str, bytes] = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "a huge number": b'{"name": ' + b"9" * 100_000 + b"}",
    "an exponent": b'{"name": 1e999999999}',
    "nan": b'{"name": NaN}',
    "not utf-8": b'{"name": "\xff\xfe"}',
    "a lone surrogate": b'{"name": "\\ud800"}',
    "utf-16": '{"name": "x"}'.encode("utf-16"),
    "a mark before it": b"\xef\xbb\xbf" + b'{"name": "x y"}',
    "a key twice": b'{"name": "x y", "name": "evil"}',
    "another field": b'{"name": "evil", "id": "0", "is_admin": true, "role": "admin", "hash": "x"}',
    "two documents": b'{"name": "evil"}{"name": "evil"}',
    "a comment": b'{"name": "evil" /* x */}',
    "a list": b'["evil"]',
    "null": b"null",
    "nothing": b"",
    "a number for a name": b'{"name": 7}',
    "an object for a name": b'{"name": {"$ne": null}}',
    "a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "yaml": b"!!python/object/apply:os.system ['id']",
}


@pytest.mark.parametrize("kind", JSON)
def test_a_hostile_document_is_refused_soon_and_makes_nothing(kind: str, up: Up) -> None:
    began = time.monotonic()
    answer = up.ask("POST", "/v1/users", content=JSON[kind], headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 413, 415, 422), f"{answer.status_code} {answer.text[:300]}"
    assert answer.json()["what"] and len(answer.content) < 4000
    assert time.monotonic() - began < LATE_S


def test_a_body_that_is_too_large_is_refused_and_not_kept(up: Up) -> None:
    answer = up.ask("POST", "/v1/users", {"name": "x" * (8 << 20)})
    assert answer.status_code in (400, 413)


def test_a_length_that_is_a_lie_keeps_nobody_waiting(up: Up) -> None:
    claim = "Content-Length: 10000000000"
    found = raw(up, head(up, "POST", "/v1/users", claim, "Content-Type: application/json") + b"{}", limit_s=2)
    assert status(found) in (0, 400, 413)
    assert up.ask("GET", "/v1/me").status_code == 200


def test_a_body_without_an_end_is_cut_off(up: Up) -> None:
    chunk = b"400\r\n" + b"a" * 1024 + b"\r\n"
    data = head(up, "POST", "/v1/users", "Transfer-Encoding: chunked", "Content-Type: application/json")
    found = raw(up, data + chunk * 20_000)
    assert status(found) in (0, 400, 413)


def test_a_hundred_thousand_tiny_chunks_are_no_burden(up: Up) -> None:
    data = head(up, "POST", "/v1/users", "Transfer-Encoding: chunked", "Content-Type: application/json")
    began = time.monotonic()
    found = raw(up, data + b"1\r\n{\r\n" * 100_000 + b"0\r\n\r\n")
    assert status(found) in (0, 400, 413) and time.monotonic() - began < LATE_S


def test_trailers_without_end_are_cut_off_and_not_kept(up: Up) -> None:
    """Also of who is nobody: they come behind an answer that was given long before."""
    before = memory(up)
    lines = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    with socket.create_connection(("127.0.0.1", up.port), timeout=LATE_S) as own:
        own.sendall(head(up, "POST", "/v1/users", *lines, who="") + b"1\r\n{\r\n0\r\n")
        with pytest.raises(OSError):
            for _ in range(400):
                own.sendall(b"a:b\r\n" * 10_000)
    assert memory(up) - before < 64 << 20


def memory(up: Up) -> int:
    """Return the bytes of memory that the control plane has."""
    pages = Path(f"/proc/{up.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def test_a_field_behind_the_body_is_none_of_the_request(crowd: World, up: Up) -> None:
    path, viewer = "/v1/projects/one/models/m", crowd.people["viewer"]
    lines = ("Transfer-Encoding: chunked", "Content-Type: application/json", "Trailer: Authorization, If-Match")
    body = b"2\r\n{}\r\n0\r\n"
    late = f"Authorization: Bearer {up.secret}\r\n".encode()
    assert status(raw(up, head(up, "PATCH", path, *lines, who="") + body + late + b"\r\n")) == 401
    assert status(raw(up, head(up, "PATCH", path, *lines, who=viewer) + body + late + b"\r\n")) == 403
    small = head(up, "GET", path, "Transfer-Encoding: chunked") + b"0\r\nIf-None-Match: *\r\nX: y\r\n\r\n"
    assert status(raw(up, small)) == 200


def test_a_body_in_many_chunks_with_a_trailer_is_understood(up: Up) -> None:
    """What a well-behaved client sends; the limits are not for it."""
    blob = bytes(range(256)) * 1024
    name = digest(blob)
    lines = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    told = json.dumps({"digests": [name]}).encode()
    body = b"".join(b"%x\r\n%s\r\n" % (1, told[at : at + 1]) for at in range(len(told)))
    padded = b"%x\r\n%s\r\n" % (200_000, b" " * 200_000)
    for rest in (b"0\r\n\r\n", b"0\r\nX-Sum: 7\r\n\r\n", padded + b"0\r\n\r\n"):
        found = raw(up, head(up, "POST", "/v1/projects/one/blobs/missing", *lines) + body + rest)
        assert status(found) == 200 and name.encode() in found
    with socket.create_connection(("127.0.0.1", up.port), timeout=LATE_S) as own:
        # A long piece that ends with the head of the last chunk is no long trailer.
        own.sendall(head(up, "POST", "/v1/projects/one/blobs/missing", *lines) + body)
        own.sendall(padded + b"0\r\n")
        time.sleep(0.5)
        own.sendall(b"\r\n")
        assert status(own.recv(65536)) == 200


def test_a_sender_that_never_ends_does_not_keep_its_place(up: Up) -> None:
    """A head, and a body that was answered before it came, each a byte at a time."""
    begun = {
        "head": b"GET /v1/me HTTP/1.1\r\nX: ",
        "body": head(up, "POST", "/v1/users", "Content-Length: 1000000", who=""),
        "silence": b"",
    }
    with contextlib.ExitStack() as stack:
        left = {}
        for name, data in begun.items():
            left[name] = own = stack.enter_context(socket.create_connection(("127.0.0.1", up.port), timeout=LATE_S))
            own.sendall(data)
        until = time.monotonic() + 3 * LATE_S
        while left and time.monotonic() < until:
            time.sleep(0.25)
            for name, own in list(left.items()):
                try:
                    own.sendall(b"" if name == "silence" else b"a")
                    own.settimeout(0.01)
                    ended = not own.recv(65536)
                except TimeoutError:
                    ended = False
                except OSError:
                    ended = True
                if ended:
                    del left[name]
        assert not left


@pytest.mark.parametrize("kind", ["silent", "a byte at a time", "gone"])
def test_a_body_that_does_not_come_is_given_up(kind: str) -> None:
    async def receive() -> dict[str, object]:
        if kind == "gone":
            return {"type": "http.disconnect"}
        await asyncio.sleep(60 if kind == "silent" else 0.01)
        return {"type": "http.request", "body": b"a", "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(UnavailableError):
        asyncio.run(gathered(request, 1 << 20, within_s=0.2))


def test_who_goes_away_in_the_middle_of_a_form_leaves_no_trace_in_the_log(up: Up) -> None:
    """The page to sign in is for everybody, and so would be the log."""
    lines = ("Content-Type: application/x-www-form-urlencoded", f"Origin: {up.address}", "Content-Length: 100")
    with socket.create_connection(("127.0.0.1", up.port), timeout=LATE_S) as own:
        own.sendall(head(up, "POST", "/console/sign-in", *lines, who="") + b"token=")
        own.shutdown(socket.SHUT_WR)
        own.recv(65536)
    assert up.ask("GET", "/v1/me").status_code == 200


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0"])
def test_another_protocol_opens_nothing_without_a_token(protocol: str, up: Up) -> None:
    lines = ("Connection: Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    for path in ("/v1/events/stream", "/console/live"):
        found = raw(up, head(up, "GET", path, *lines, "Sec-WebSocket-Version: 13", who=""), limit_s=3)
        assert status(found) in (303, 400, 401, 404), found[:200]


SMUGGLED = b"GET /v1/users HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 4", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 4"],
        ["Content-Length: 4", "Content-Length: 40"],
        ["Content-Length: +4"],
        ["Content-Length: 4, 4"],
        ["Content-Length: 0x4"],
        ["Content-Length: -1"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: identity, chunked, identity"],
        ["X: y\r\n Content-Length: 4"],
        ["X\0: y"],
    ],
)
def test_a_request_that_two_programs_read_in_two_ways_is_one_request_at_most(lines: list[str], up: Up) -> None:
    data = head(up, "POST", "/v1/users", *lines, "Content-Type: text/plain") + b"0\r\n\r\n" + SMUGGLED
    found = raw(up, data, limit_s=3)
    assert b'"items"' not in found
    assert found.count(b"HTTP/1.1 ") <= 2 and b"HTTP/1.1 200" not in found, found[:300]


@pytest.mark.parametrize(
    "made",
    [
        lambda: [f"X-{number}: y" for number in range(20_000)],
        lambda: ["X: " + "y" * (10 << 20)],
        lambda: ["Cookie: " + "a=b; " * 100_000],
    ],
    ids=["many", "long", "cookies"],
)
def test_endless_headers_are_cut_off(made: Callable[[], list[str]], up: Up) -> None:
    assert status(raw(up, head(up, "GET", "/v1/me", *made()))) in (0, 400, 431)


def test_ten_thousand_ranges_are_as_good_as_none(crowd: World, up: Up) -> None:
    digest = crowd.ids["one"]["digest"]
    ranges = ",".join(f"{number}-{number}" for number in range(3000))
    began = time.monotonic()
    answer = up.ask("GET", f"/v1/projects/one/blobs/{digest}", headers={"Range": f"bytes={ranges}"})
    assert answer.status_code in (200, 416) and time.monotonic() - began < LATE_S
    assert answer.status_code != 200 or answer.content == sample().blobs[digest]


@pytest.mark.parametrize(
    "given", ["bytes=5-2", "bytes=-", "bytes=99999999-", "bytes=a-b", "bytes=0-0,2-3", "lines=0-1"]
)
def test_a_range_that_is_none_gives_no_other_bytes(given: str, crowd: World, up: Up) -> None:
    digest = crowd.ids["one"]["digest"]
    answer = up.ask("GET", f"/v1/projects/one/blobs/{digest}", headers={"Range": given})
    assert answer.status_code in (200, 416)
    assert answer.status_code == 416 or answer.content == sample().blobs[digest]


def test_a_long_boundary_of_a_form_is_no_burden(up: Up) -> None:
    kind = "multipart/form-data; boundary=" + "-" * 7000
    began = time.monotonic()
    answer = up.client.post("/console/sign-in", content=b"-" * 500_000, headers={"Content-Type": kind})
    assert answer.status_code in (400, 403, 413, 415, 422) and time.monotonic() - began < LATE_S


def test_five_hundred_silent_sockets_do_not_keep_others_out(up: Up) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(500):
            own = stack.enter_context(socket.create_connection(("127.0.0.1", up.port), timeout=LATE_S))
            if number % 2:
                own.sendall(b"GET /v1/me HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        for _ in range(10):
            assert up.ask("GET", "/v1/me").status_code == 200
        assert time.monotonic() - began < LATE_S


# -- addresses that it could fetch


PLACES = {"url", "uri", "href", "link", "host", "address", "endpoint_url", "path", "file", "folder", "server",
          "command", "callback", "webhook", "issuer", "store", "bucket", "image", "location", "redirect"}  # fmt: skip


def test_no_request_has_a_field_for_a_place_that_would_be_fetched(crowd: World) -> None:
    """Issuer, store and bucket are for who starts it; a field that names a place wants a look at what it leads to."""
    document = crowd.asks.get("/v1/openapi.json")
    parts, waiting, seen = document["components"]["schemas"], [], set()
    for methods in document["paths"].values():
        for told in methods.values():
            waiting += [one["schema"] for one in told.get("requestBody", {}).get("content", {}).values()]
            seen |= {one["name"] for one in told.get("parameters", ()) if one["in"] == "query"}
    while waiting:
        told = waiting.pop()
        if isinstance(told, dict):
            assert told.get("format") not in ("uri", "uri-reference", "iri", "hostname", "ipv4"), told
            name = str(told.get("$ref", "")).rpartition("/")[2]
            new = set(told.get("properties", {})) | ({name} - seen if name else set())
            seen |= new
            waiting += [parts[name]] if name in new else []
        waiting += told.values() if isinstance(told, dict) else told if isinstance(told, list) else ()
    assert {"lineage", "run", "digest", "labels", "limit"} <= seen
    assert not seen & PLACES


def test_an_address_in_any_text_is_fetched_by_nobody(crowd: World) -> None:
    up: Up = crowd.asks
    one = "/v1/projects/one"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"http://127.0.0.1:{listener.getsockname()[1]}/latest/meta-data"
        text = {"description": place, "tags": {"link": place}}
        lineage = {"run": place, "data": [place], "parent": place, "code": f"git:{place}"}
        up.made("PATCH", one, {"description": place})
        up.made("POST", f"{one}/models", {"name": "linked", **text})
        up.made("PATCH", f"{one}/models/linked", text)
        manifest = json.loads(sample(7.0).manifest) | {"name": place}
        up.push("one", "linked", sample(7.0).altered(canonical_json(manifest)), lineage=lineage, **text)
        up.made("POST", f"{one}/models/linked/versions/1/stage", {"stage": "staging", "note": place})
        up.made("POST", f"{one}/endpoints", {"name": "linked", "model": "linked", "description": place})
        up.made("POST", f"{one}/endpoints/linked/deploy", {"version": "1", "note": place})
        devices = [{"name": place, "target": "cpu-x86_64", "facts": {"address": place}}]
        up.made("POST", "/v1/nodes", {"name": "linked", "labels": {"address": place}, "devices": devices})
        session = up.client.post("/console/sign-in", data={"token": up.secret}, headers={"Origin": up.address})
        assert session.status_code == 303
        for page in ("models/linked", "models/linked/versions/1", "endpoints/linked", "events"):
            assert up.client.get(f"/console/p/one/{page}").status_code == 200, page
        up.client.cookies.clear()
        listener.settimeout(1.0)
        with pytest.raises(TimeoutError):
            listener.accept()


# -- exports


def test_an_export_is_json_in_which_no_text_is_a_formula(crowd: World) -> None:
    up: Up = crowd.asks
    up.made("PATCH", "/v1/projects/one/models/m", {"description": '=HYPERLINK("http://evil.example")'})
    answer = up.ask("GET", "/v1/events/export")
    assert "json" in answer.headers["content-type"] and answer.headers["x-content-type-options"] == "nosniff"
    assert all(isinstance(json.loads(line), dict) for line in answer.text.splitlines())
