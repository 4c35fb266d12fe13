"""What a server makes of requests that are wrong, hostile or endless: a clear 4xx or a closed connection, soon."""

import contextlib
import gzip
import json
import resource
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from server import PATIENCE_S, Server, ask, body, bundle, expected, raw, until

#: Nothing takes longer than 2 s; the machine may be busy with something else.
SOON_S = 8.0
BODY = 1 << 20
INFER = "/v2/models/m/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    small, apart = bundle(folder / "m.tilth"), bundle(folder / "n.tilth")
    with Server(f"m={small}", f"n={apart}", "--isolate", "never", "--max-body", BODY, "--body-s", 1) as started:
        yield started


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    processes, before, said = server.tree(), server.resident_bytes(), len(server.log())
    yield
    reply = server.infer("m")
    assert reply.status == 200 and reply.row == pytest.approx(expected(), abs=1e-4)
    assert server.tree() == processes, "a process died"
    assert server.resident_bytes() < before + (256 << 20)
    assert '"event":"fault"' not in server.log()[said:]


def exchange(server: Server, data: bytes, *, more: bytes = b"", times: int = 0) -> tuple[int, bytes]:
    """Send bytes, then `more` again and again, and return status and rest of the answer; 0 for a closed connection."""
    began = time.monotonic()
    with raw(server, SOON_S) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            for _ in range(times):
                connection.sendall(more)
        answer = received(connection)
    assert time.monotonic() - began < SOON_S
    return (int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0), answer


def received(connection: socket.socket) -> bytes:
    """Read one answer, or what comes before the connection is closed."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
            head, end, rest = data.partition(b"\r\n\r\n")
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if end and sizes and len(rest) >= int(sizes[0].partition(b":")[2]):
                break
    return data


def head(path: str = INFER, method: str = "POST", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def refused(server: Server, data: Any, status: int = 400, headers: Mapping[str, str] | None = None) -> str:
    """POST a body to `infer` and return the message of its refusal."""
    sent = data if isinstance(data, bytes) else json.dumps(data).encode()
    began = time.monotonic()
    reply = server.ask("POST", INFER, sent, headers)
    assert reply.status == status, reply.data[:500]
    assert time.monotonic() - began < SOON_S
    assert reply.json["error"] and len(reply.data) < 4096
    return str(reply.json["error"])


def tensor(**changes: Any) -> dict[str, Any]:
    one = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0], **changes}
    return {"inputs": [{key: value for key, value in one.items() if value is not None}]}


# -- bodies without end, and lengths that lie


def test_an_endless_chunked_body_is_cut_off(server: Server) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    status, _ = exchange(server, head(Transfer_Encoding="chunked"), more=piece, times=1000)
    assert status in (0, 413)


def test_a_hundred_thousand_tiny_chunks_are_cut_off(server: Server) -> None:
    status, _ = exchange(server, head(Transfer_Encoding="chunked"), more=b"1\r\n \r\n" * 1000, times=100)
    assert status in (0, 400)


def test_a_body_that_trickles_in_is_given_up(server: Server) -> None:
    with raw(server, SOON_S) as connection:
        connection.sendall(head(Content_Length="100") + b"{")
        assert received(connection)[:12] == b"HTTP/1.1 408"
    with raw(server, SOON_S) as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"1\r\n{\r\n")
        assert b" 408 " in received(connection)[:20]


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nothing(server: Server) -> None:
    for _ in range(50):
        with raw(server) as connection:
            connection.sendall(head(Content_Length="1000") + b'{"inputs"')


def test_a_client_that_leaves_before_its_answer_harms_nothing(server: Server) -> None:
    for _ in range(50):
        with raw(server) as connection:
            connection.sendall(head(Content_Length=str(len(body()))) + body())


@pytest.mark.parametrize(
    "length", ["10000000000", "99999999999999999999999999", "-1", "abc", "1e3", "0x10", "+5", "5 5", "", "٣"]
)
def test_a_content_length_that_cannot_be_is_refused(server: Server, length: str) -> None:
    status, _ = exchange(server, head(Content_Length=length) + b"{}")
    assert status in (0, 400, 413)


def test_two_content_lengths_are_refused(server: Server) -> None:
    lengths = b"Content-Length: 2\r\nContent-Length: 40\r\n"
    status, _ = exchange(server, b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + lengths + b"\r\n{}")
    assert status in (0, 400)


def test_a_length_beside_chunks_smuggles_no_second_request(server: Server) -> None:
    second = b"GET /v2/models/m HTTP/1.1\r\nHost: localhost\r\n\r\n"
    _, answer = exchange(server, head(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\n" + second)
    assert b'"platform"' not in answer or answer.count(b"HTTP/1.1 ") <= 2


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n{}\r\n", b"-1\r\n{}\r\n", b"ffffffffffffffffff\r\n{}", b"2\r\n{}garbage\r\n"]
)
def test_a_chunk_size_that_cannot_be_is_refused(server: Server, chunk: bytes) -> None:
    status, _ = exchange(server, head(Transfer_Encoding="chunked") + chunk)
    assert status == 0 or 400 <= status < 500


# -- packing


def test_a_gzip_bomb_is_refused_before_it_unpacks(server: Server) -> None:
    bomb = gzip.compress(b" " * (128 << 20), 1)
    assert len(bomb) < BODY
    refused(server, bomb, 413, {"content-encoding": "gzip"})


@pytest.mark.parametrize("cut", [1, 10, 12, 30])
def test_a_gzip_body_that_ends_early_is_refused(server: Server, cut: int) -> None:
    refused(server, gzip.compress(body())[:-cut], 400, {"content-encoding": "gzip"})


def test_a_body_packed_otherwise_than_it_says_is_refused(server: Server) -> None:
    refused(server, body(), 400, {"content-encoding": "gzip"})
    refused(server, body(), 400, {"content-encoding": "deflate"})
    refused(server, zlib.compress(body()), 400, {"content-encoding": "gzip"})
    refused(server, body(), 422, {"content-encoding": "br"})
    refused(server, body(), 422, {"content-encoding": "gzip, gzip"})


# -- JSON


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b"\xff\xfe",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"inputs":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":' + b"[" * 900 + b"1" + b"]" * 900 + b"}]}",
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1,2,3]}]}',
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1e999,1,2,3]}]}',
        body() + body(),
        b"\x00" + body(),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_json_that_is_none_is_refused(server: Server, data: bytes) -> None:
    refused(server, data)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": [None, 1, 2, 3]},
        {"data": [1, 2, 3]},
        {"data": [1, 2, 3, 4, 5]},
        {"data": []},
        {"data": None},
        {"data": "1234"},
        {"data": {"0": 1}},
        {"data": [1, 2, 3, "four"]},
        {"data": [1, 2, 3, [4]]},
        {"data": [1, 2, 3, {}]},
        {"data": [True, False, True, True]},
        {"data": [1e300, 2, 3, 4]},
        {"data": [10**400, 2, 3, 4]},
        {"name": "y"},
        {"name": ""},
        {"name": 5},
        {"name": None},
        {"name": "x" * 500},
        {"shape": [4, 1]},
        {"shape": [4]},
        {"shape": [1, 1, 4]},
        {"shape": []},
        {"shape": None},
        {"shape": "1,4"},
        {"shape": [-1, 4]},
        {"shape": [1, -4]},
        {"shape": [-1, -4]},
        {"shape": [1.0, 4]},
        {"shape": [True, 4]},
        {"shape": [1 << 39, 4]},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": [10**30, 4]},
        {"shape": [0, 1 << 39], "data": []},
        {"shape": [1] * 1000},
        {"datatype": "FP64"},
        {"datatype": "INT64", "data": [1, 2, 3, 4]},
        {"datatype": "BOOL", "data": [1, 0, 1, 0]},
        {"datatype": "BYTES", "data": ["a", "b", "c", "d"]},
        {"datatype": "INT8", "data": [1000, 2, 3, 4]},
        {"datatype": "UINT64", "data": [-1, 2, 3, 4]},
        {"datatype": 32},
        {"datatype": None},
        {"parameters": []},
        {"parameters": {"binary_data_size": 16}},
        {"parameters": {"binary_data_size": -1}, "data": None},
        {"parameters": {"binary_data_size": "16"}, "data": None},
        {"parameters": {"binary_data_size": 1 << 62}, "data": None},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_a_tensor_that_does_not_fit_is_refused(server: Server, changes: dict[str, Any]) -> None:
    refused(server, tensor(**changes))


@pytest.mark.parametrize("datatype", ["FP31", "fp32", "", "BF16", "X" * 10_000])
def test_a_datatype_that_there_is_not_is_refused(server: Server, datatype: str) -> None:
    refused(server, tensor(datatype=datatype), 422)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"inputs": []},
        {"inputs": {}},
        {"inputs": [5]},
        {"inputs": [None]},
        {"inputs": tensor()["inputs"] * 2},
        {**tensor(), "id": 5},
        {**tensor(), "parameters": []},
        {**tensor(), "parameters": {"timeout": -1}},
        {**tensor(), "parameters": {"timeout": "soon"}},
        {**tensor(), "parameters": {"timeout": 1e400}},
        {**tensor(), "outputs": 5},
        {**tensor(), "outputs": [{}]},
        {**tensor(), "outputs": [{"name": "nothing"}]},
        {**tensor(), "outputs": [{"name": "y", "parameters": 5}]},
        {**tensor(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
        {**tensor(), "outputs": [{"name": "y", "parameters": {"classification": "all"}}]},
    ],
    ids=lambda document: json.dumps(document)[-40:],
)
def test_a_request_of_another_form_is_refused(server: Server, document: dict[str, Any]) -> None:
    refused(server, document)


def test_too_many_inputs_are_refused(server: Server) -> None:
    many = [{**tensor()["inputs"][0], "name": f"x{index}"} for index in range(300)]
    refused(server, {"inputs": many}, 413)


def test_more_classes_than_there_are_give_what_there_is(server: Server) -> None:
    wanted = [{"name": "y", "parameters": {"classification": 1 << 60}}]
    reply = server.infer("m", outputs=wanted)
    assert reply.status == 200 and reply.json["outputs"][0]["shape"] == [1, 3]


@pytest.mark.parametrize("timeout", ["soon", "-1", "nan", "inf", "1h", "1e999", "", "9" * 400])
def test_a_timeout_that_is_none_is_refused(server: Server, timeout: str) -> None:
    reply = server.infer("m", {"timeout": timeout})
    assert reply.status == (200 if timeout == "" else 400)


# -- binary data


def binary(told: dict[str, Any], data: bytes, length: str | None = None) -> tuple[bytes, dict[str, str]]:
    document = json.dumps(told).encode()
    return document + data, {"inference-header-content-length": length or str(len(document))}


def sized(size: Any, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


@pytest.mark.parametrize("length", ["-1", "abc", "99999999", "9" * 50, "1e2", "0", "1", "10"])
def test_a_json_length_that_lies_is_refused(server: Server, length: str) -> None:
    data, headers = binary(sized(16), bytes(16), length)
    refused(server, data, 400, headers)


@pytest.mark.parametrize(("size", "sent"), [(16, 15), (16, 17), (15, 15), (17, 17), (0, 0), (0, 16), (1 << 40, 16)])
def test_binary_data_of_another_size_is_refused(server: Server, size: int, sent: int) -> None:
    data, headers = binary(sized(size), bytes(sent))
    refused(server, data, 400, headers)


@pytest.mark.parametrize(
    "raw_bytes",
    [
        b"",
        b"\x01",
        struct.pack("<I", 0xFFFFFFFF) + b"abcd",
        struct.pack("<I", 5) + b"abcd",
        struct.pack("<I", 4) + b"abcd",
        struct.pack("<I", 0) * 5,
        struct.pack("<I", 1) + b"\xff" + struct.pack("<I", 0) * 3,
    ],
    ids=repr,
)
def test_texts_with_lying_lengths_are_refused(server: Server, raw_bytes: bytes) -> None:
    data, headers = binary(sized(len(raw_bytes), datatype="BYTES"), raw_bytes)
    refused(server, data, 400, headers)


@pytest.mark.parametrize("shape", [[1 << 39, 1 << 39], [0, 1 << 39], [1 << 39], [1 << 20] * 32, [0] * 32])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BOOL", "FP16"])
def test_binary_data_of_a_huge_shape_is_refused(server: Server, shape: list[int], datatype: str) -> None:
    for size in (0, 16):
        data, headers = binary(sized(size, shape=shape, datatype=datatype), bytes(size))
        refused(server, data, 400, headers)


# -- rows


@pytest.mark.parametrize(
    "data",
    [
        {"instances": []},
        {"instances": 5},
        {"instances": [None]},
        {"instances": [[1, 2, 3]]},
        {"instances": [[1, 2, 3, None]]},
        {"instances": [[1, 2, 3, "x"]]},
        {"instances": [{"y": [1, 2, 3, 4]}]},
        {"instances": [{"x": [1, 2, 3, 4], "z": 1}]},
        {"instances": [{"x": {}}]},
        {"instances": [[[[[[1]]]], 2, 3, 4, 5]]},
        5,
        None,
        "text",
    ],
    ids=lambda data: json.dumps(data)[:40],
)
def test_rows_that_do_not_fit_are_refused(server: Server, data: Any) -> None:
    reply = server.post("/v1/models/m:predict", data if data is not None else "null")
    assert reply.status == 400, reply.data


# -- headers, paths and methods


def test_slow_headers_are_given_up(server: Server) -> None:
    began = time.monotonic()
    with raw(server, SOON_S) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(80):
                connection.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(100):
                        break
                connection.sendall(b"X: y\r\n")
    assert time.monotonic() - began < SOON_S


def test_a_header_of_a_megabyte_is_refused(server: Server) -> None:
    status, _ = exchange(server, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n")
    assert status in (0, 400, 414, 431)


def test_ten_thousand_headers_are_refused(server: Server) -> None:
    status, _ = exchange(server, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10_000 + b"\r\n")
    assert status in (0, 400, 431)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 1000,
        b"GET\r\n\r\n",
        b"GET /v2\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nBad Header: 1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n: none\r\n\r\n",
        b"G\xc3\xa4T /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_http_is_refused(server: Server, data: bytes) -> None:
    status, _ = exchange(server, data)
    assert status == 0 or 400 <= status < 500


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/v2/../../../etc/passwd",
        "/v2/models/../../etc/passwd",
        "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v2/models/%2e%2e/infer",
        "/v2/models/m%00/ready",
        "/v2/models/%00/ready",
        "/v2/models//ready",
        "//v2/models/m",
        "/v2//models/m",
        "/v2/models/m/versions/../1",
        "/v2/models/%ff%fe/ready",
        "/v2/models/" + "n" * 4096,
        "/v2/models/" + "n" * 1900 + "/ready",
        "/v2/models/" + "%41" * 600 + "/ready",
        "/v2/models/m/nothing",
        "/v2/models/m/versions/%ff",
        "/v2/models/m/versions/99999999999999999999",
        "/favicon.ico",
        "/",
        "/v2/models/m;drop/ready",
        "/v2/models/m%0d%0aX:%20y/ready",
    ],
)
def test_a_path_of_tricks_finds_nothing(server: Server, path: str) -> None:
    status, answer = exchange(server, head(path, "GET"))
    assert 400 <= status < 500, answer[:300]
    assert b"root:" not in answer and b"\r\nX: y" not in answer


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "%2fetc%2fpasswd", "n" * 1900, "a%00b", "-", ".hidden", "a b", "\u00e4"]
)
@pytest.mark.parametrize("what", ["load", "unload"])
def test_a_model_name_of_tricks_is_not_loaded(server: Server, name: str, what: str) -> None:
    path = f"/v2/repository/models/{name}/{what}"
    status, answer = exchange(server, head(path, Content_Length="2") + b"{}")
    assert 400 <= status < 500, answer[:300]


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "GET", "BREW"])
def test_a_method_that_is_not_taken_is_refused(server: Server, method: str) -> None:
    status, answer = exchange(server, head(INFER, method))
    assert status in (0, 400, 404, 405), answer[:300]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Host": ""},
        {"Host": "x" * 5000},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
    ],
    ids=lambda headers: repr(headers)[:40],
)
@pytest.mark.parametrize("path", ["/v2/repository/models/m/unload", INFER])
def test_a_page_of_another_site_cannot_call(server: Server, headers: dict[str, str], path: str) -> None:
    # A plain form can send text/plain without asking first; what stops it is Host and Origin, not the content type.
    reply = server.ask("POST", path, body(), {"Content-Type": "text/plain", **headers})
    assert 400 <= reply.status < 500, reply.data
    assert server.infer("m").status == 200


def test_no_host_and_two_hosts_are_refused(server: Server) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host: evil.example\r\nHost: localhost\r\n"):
        status, _ = exchange(server, b"GET /v2 HTTP/1.1\r\n" + hosts + b"\r\n")
        assert status in (0, 400)


# -- the repository


@pytest.mark.parametrize(
    "told",
    [
        [],
        5,
        "load it",
        {"parameters": {"config": "{"}},
        {"parameters": {"config": "[]"}},
        {"parameters": {"config": '{"max_batch_size": 4}'}},
        {"parameters": {"config": '{"versions": 5}'}},
        {"parameters": {"config": '{"versions": []}'}},
        {"parameters": {"config": '{"versions": "newest"}'}},
        {"parameters": {"config": '{"versions": ["../1"]}'}},
        {"parameters": {"config": '{"split": {"1": -5}}'}},
        {"parameters": {"config": '{"split": {"7": 50}}'}},
        {"parameters": {"config": '{"split": []}'}},
        {"parameters": {"file:1/m.tilth": "not base64!"}},
        {"parameters": {"file:1/m.tilth": 5}},
        {"parameters": {"file:../../x/m.tilth": ""}},
        {"parameters": {"file:-1/m.tilth": ""}},
        {"parameters": {"unknown": 1}},
    ],
    ids=lambda told: json.dumps(told)[-40:],
)
def test_a_load_of_another_form_is_refused_and_changes_nothing(server: Server, told: Any) -> None:
    reply = server.ask("POST", "/v2/repository/models/m/load", json.dumps(told).encode())
    assert 400 <= reply.status < 500, reply.data
    assert server.infer("m").status == 200


def test_a_bundle_of_garbage_is_refused_and_not_taken_for_a_model(server: Server) -> None:
    told = {"parameters": {"file:1/z.tilth": "UEsDBAAA"}}
    reply = server.post("/v2/repository/models/z/load", told)
    assert 400 <= reply.status < 500, reply.data
    server.post("/v2/repository/models/z/unload")
    until(lambda: server.get("/v2/health/ready").status == 200, server)


# -- many


def test_thousands_of_silent_sockets_keep_nobody_from_being_answered(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5000 if hard == resource.RLIM_INFINITY or hard > 6000 else 1500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 6000)), hard))
    silent: list[socket.socket] = []
    slowest = 0.0
    connection = server.connection(SOON_S)
    try:
        for index in range(wanted):
            made = socket.socket()
            made.setblocking(False)
            made.connect_ex(("127.0.0.1", server.port))
            silent.append(made)
            if index % 250 == 0:
                began = time.monotonic()
                assert ask(connection, "POST", INFER, body()).status == 200
                slowest = max(slowest, time.monotonic() - began)
        for _ in range(5):
            began = time.monotonic()
            assert ask(connection, "POST", INFER, body()).status == 200
            slowest = max(slowest, time.monotonic() - began)
        began = time.monotonic()
        assert server.infer("m").status == 200
        print(f"{wanted} silent sockets; slowest {slowest:.2f} s, a new connection {time.monotonic() - began:.2f} s")
        assert slowest < SOON_S
    finally:
        connection.close()
        for made in silent:
            made.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: server.infer("m").status == 200, server, PATIENCE_S)


def test_a_pipeline_of_requests_is_answered_in_order(server: Server) -> None:
    one = head(Content_Length=str(len(body()))) + body()
    with raw(server, SOON_S) as connection:
        connection.sendall(one * 50 + head("/nothing", "GET", Connection="close"))
        data = b""
        while piece := connection.recv(65536):
            data += piece
    assert data.count(b"HTTP/1.1 200") == 50 and data.rindex(b"HTTP/1.1 404") > data.rindex(b"HTTP/1.1 200")


def test_memory_stays_after_a_thousand_bad_requests(server: Server, tmp_path: Path) -> None:
    before = server.resident_bytes()
    connection = server.connection(SOON_S)
    for index in range(1000):
        path = f"/v2/models/{'n' * (index % 500)}{index}/infer"
        assert ask(connection, "POST", path, body()).status == 404
    connection.close()
    assert server.resident_bytes() < before + (32 << 20)
