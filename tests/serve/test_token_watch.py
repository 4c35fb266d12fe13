"""Token files that change under a running server: what is revoked and still works, and what is good and is lost."""

import contextlib
import hashlib
import io
import os
import queue
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from server import ROW, TILTH, Server, ask, body, raw, until

import tilth
from tilth.core.errors import InvalidError, MissingError, RefusedError
from tilth.serve.access import Access, UnauthenticatedError
from tilth.serve.grpc_messages import SERVICE, messages
from tilth.serve.logs import Log
from tilth.serve.token_watch import TokenWatch
from tilth.serve.tokens import TokenFile
from tilth.testing.models import affine

KEPT, SECOND, OTHER = "kept-token", "second-token", "other-token"
NOBODY = b"# tilth: no tokens\n"
#: What is promised.
WITHIN_S = 2.0
INFER = "/v2/models/m/infer"


def lines(*tokens: str, scopes: str = "infer") -> bytes:
    return "".join(f"sha256:{hashlib.sha256(one.encode()).hexdigest()} {scopes} {one}\n" for one in tokens).encode()


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put another file in the place of one, in one step."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(data)
    beside.chmod(mode)
    beside.replace(path)


# One watch, looked at by hand.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.txt"
    replace(path, lines(KEPT))
    return path


@pytest.fixture
def watch(file: Path, tmp_path: Path) -> TokenWatch:
    return watching(file, tmp_path)


def watching(file: Path, tmp_path: Path, index: int = 0) -> TokenWatch:
    folder = tmp_path / "runtime"
    folder.mkdir(exist_ok=True)
    return TokenWatch(file, folder, index, Log(io.StringIO()))


def who(found: TokenFile | None) -> set[str]:
    assert found is not None
    return {one for one in (KEPT, SECOND, OTHER) if found.find(one)}


def test_a_file_that_stays_is_not_taken_again(watch: TokenWatch, file: Path) -> None:
    assert who(watch.begin()) == {KEPT}
    assert [watch.look() for _ in range(4)] == [None] * 4
    replace(file, file.read_bytes())
    os.utime(file)
    assert [watch.look() for _ in range(4)] == [None] * 4, "another file of the same bytes"


@pytest.mark.parametrize("in_place", [True, False])
def test_other_bytes_of_the_same_size_and_time_are_seen(watch: TokenWatch, file: Path, in_place: bool) -> None:
    os.utime(file, ns=(10**18, 10**18))
    watch.begin()
    watch.look()
    data = lines("KEPT-token")
    assert len(data) == file.stat().st_size
    file.write_bytes(data) if in_place else replace(file, data)
    os.utime(file, ns=(10**18, 10**18))
    found = watch.look()
    assert found is not None and found.find("KEPT-token") and not found.find(KEPT)


def test_two_writes_within_a_tick_of_the_clock_are_both_seen(watch: TokenWatch, file: Path) -> None:
    watch.begin()
    last = ""
    for number in range(300):
        for half in "ab":
            last = f"{number:04}{half}"
            file.write_bytes(lines(last))
            found = watch.look() if half == "a" else None
        found = watch.look() or found
        found = watch.look() or found
        assert found is not None and found.find(last), number


def test_a_bad_file_is_told_once_and_one_that_cannot_be_read_until_it_can(watch: TokenWatch, file: Path) -> None:
    watch.begin()
    replace(file, b"junk")
    with pytest.raises(RefusedError):
        watch.look()
    assert [watch.look() for _ in range(3)] == [None] * 3
    replace(file, lines(SECOND), mode=0o622)
    for _ in range(3):
        with pytest.raises(RefusedError, match="other users may write"):
            watch.look()
    # Neither its inode, its size nor the time of its bytes is another.
    file.chmod(0o600)
    assert who(watch.look()) == {SECOND}
    file.unlink()
    for _ in range(3):
        with pytest.raises(MissingError):
            watch.look()
    replace(file, NOBODY)
    assert who(watch.look()) == set()


def test_a_server_does_not_begin_with_a_bad_file(watch: TokenWatch, file: Path) -> None:
    for data in (b"", b"junk"):
        replace(file, data)
        with pytest.raises((InvalidError, RefusedError)):
            watch.begin()
    file.unlink()
    with pytest.raises(MissingError):
        watch.begin()


def test_a_worker_that_begins_while_the_file_is_bad_goes_by_the_tokens_of_the_others(
    watch: TokenWatch, file: Path, tmp_path: Path
) -> None:
    watch.begin()
    replace(file, lines(SECOND))
    watch.look()
    replace(file, b"")
    late = watching(file, tmp_path, 1)
    assert who(late.begin()) == {SECOND}
    assert [late.look() for _ in range(2)] == [None] * 2
    replace(file, lines(OTHER))
    assert who(late.look()) == {OTHER}
    kept = tmp_path / "runtime" / "tokens"
    assert kept.read_bytes() == lines(OTHER) and kept.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_does_not_keep_a_token_good(watch: TokenWatch, file: Path, tmp_path: Path) -> None:
    watch.begin()
    (tmp_path / "runtime" / "tokens-0").mkdir()
    replace(file, lines(SECOND))
    assert who(watch.look()) == {SECOND}


def test_an_access_goes_by_the_tokens_that_it_took_last(watch: TokenWatch, file: Path) -> None:
    access = Access(watch.begin())
    before = time.perf_counter_ns()
    assert access.check(f"Bearer {KEPT}", "infer").name == KEPT and access.taken_ns < before
    replace(file, NOBODY)
    access.take(watch.look() or TokenFile({}))
    assert not access.open and access.taken_ns > before
    with pytest.raises(UnauthenticatedError):
        access.check(f"Bearer {KEPT}", "infer")


# A server.


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "m.tilth"
    small = affine()
    tilth.import_model(small.model, small.inputs(4), out=path)
    tilth.build(path, budget_s=1.0, batches=(1,), engines=("ort",))
    return path


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Iterator[tuple[Server, Path]]:
    path = bundle.with_name("tokens.txt")
    replace(path, lines(KEPT, SECOND))
    with Server(f"m={bundle}", "--tokens", path, "--workers", "2", "--isolate", "never", command=TILTH) as server:
        yield server, path


@pytest.fixture
def served(shared: tuple[Server, Path]) -> Iterator[tuple[Server, Path]]:
    """Return a server of two workers and its token file, which lets in `KEPT` and `SECOND`."""
    server, path = shared
    replace(path, lines(KEPT, SECOND))
    until(lambda: everywhere(server, SECOND) == {200}, server)
    yield server, path
    if path.is_dir():
        path.rmdir()
    replace(path, lines(KEPT, SECOND))
    until(lambda: everywhere(server, SECOND) == {200} == everywhere(server, KEPT), server)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def everywhere(server: Server, token: str, connections: int = 16) -> set[int]:
    """Return the statuses of one request on each of many connections, which two workers share by chance."""
    return {server.ask("GET", "/v2", None, bearer(token)).status for _ in range(connections)}


def test_a_revoked_token_is_refused_on_connections_that_are_open(served: tuple[Server, Path]) -> None:
    server, path = served
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(server.connection())) for _ in range(16)]

        def statuses(token: str) -> set[int]:
            return {ask(one, "GET", "/v2/models/m", None, bearer(token)).status for one in opened}

        assert statuses(KEPT) == statuses(SECOND) == {200}
        sockets = [one.sock for one in opened]
        replace(path, lines(KEPT))
        assert until(lambda: statuses(SECOND) == {401}, server) < WITHIN_S
        assert statuses(KEPT) == {200}
        replace(path, NOBODY)
        assert until(lambda: statuses(KEPT) == {401}, server) < WITHIN_S
        replace(path, lines(OTHER))
        assert until(lambda: statuses(OTHER) == {200}, server) < WITHIN_S
        assert statuses(KEPT) == statuses(SECOND) == {401}
        assert [one.sock for one in opened] == sockets, "no connection was closed for it"
        assert {ask(one, "POST", INFER, body(), bearer(OTHER)).status for one in opened} == {200}
        replace(path, lines(KEPT))
        until(lambda: everywhere(server, OTHER) == {401}, server)
        assert {ask(one, "POST", INFER, body(), bearer(OTHER)).status for one in opened} == {401}


def test_a_token_that_may_do_less_may_do_less_on_connections_that_are_open(served: tuple[Server, Path]) -> None:
    server, path = served
    with contextlib.closing(server.connection()) as connection:
        assert ask(connection, "POST", INFER, body(), bearer(KEPT)).status == 200
        replace(path, lines(KEPT, scopes="infer@other.*"))
        until(lambda: ask(connection, "POST", INFER, body(), bearer(KEPT)).status == 403, server)
        replace(path, lines(KEPT, scopes="infer@m"))
        until(lambda: ask(connection, "POST", INFER, body(), bearer(KEPT)).status == 200, server)


def test_a_request_whose_body_comes_after_its_token_was_revoked_is_refused(served: tuple[Server, Path]) -> None:
    server, path = served
    sent = body()
    head = f"POST {INFER} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECOND}\r\nContent-Length: {len(sent)}"
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(raw(server)) for _ in range(8)]
        for connection in waiting:
            connection.sendall(f"{head}\r\n\r\n".encode() + sent[:10])
        replace(path, lines(KEPT))
        until(lambda: everywhere(server, SECOND) == {401}, server)
        for connection in waiting:
            connection.sendall(sent[10:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


class Stream:
    """An open stream that is fed one message at a time."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._made, self._sent = messages(), queue.SimpleQueue[Any]()
        call = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            self._made["ModelInferRequest"].SerializeToString,
            self._made["ModelStreamInferResponse"].FromString,
        )
        self._answers = call(iter(self._sent.get, None), timeout=60, metadata=[("authorization", f"Bearer {token}")])

    def ask(self, model: str = "m") -> str:
        """Return the error of one answer, `OK` for none, or the status with which the stream was ended."""
        request = self._made["ModelInferRequest"](model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=[1, len(ROW)])
        request.raw_input_contents.append(struct.pack(f"<{len(ROW)}f", *ROW))
        self._sent.put(request)
        try:
            return next(self._answers).error_message or "OK"
        except grpc.RpcError as error:
            return str(error.code().name)

    def close(self) -> None:
        self._sent.put(None)


@pytest.fixture
def stream(served: tuple[Server, Path]) -> Iterator[Callable[[str], Stream]]:
    with contextlib.ExitStack() as stack:
        # A channel of its own each, so that both workers are asked.
        options = [("grpc.use_local_subchannel_pool", 1)]

        def begun(token: str) -> Stream:
            channel = stack.enter_context(grpc.insecure_channel(served[0].grpc, options))
            return stack.enter_context(contextlib.closing(Stream(channel, token)))

        yield begun


def test_a_revoked_token_ends_streams_that_are_open(
    served: tuple[Server, Path], stream: Callable[[str], Stream]
) -> None:
    server, path = served
    staying, leaving = [stream(KEPT) for _ in range(6)], [stream(SECOND) for _ in range(6)]
    assert {one.ask() for one in (*staying, *leaving)} == {"OK"}
    replace(path, lines(KEPT))
    took_s = until(lambda: {one.ask() for one in leaving} == {"UNAUTHENTICATED"}, server)
    assert took_s < WITHIN_S and {one.ask() for one in staying} == {"OK"}


def test_a_stream_goes_on_with_what_its_token_may_do_meanwhile(
    served: tuple[Server, Path], stream: Callable[[str], Stream]
) -> None:
    server, path = served
    opened = stream(KEPT)
    assert opened.ask() == "OK"
    for scopes, said in (("infer@other.*", "may not use model `m`"), ("metrics", "scope `infer`"), ("infer@m", "OK")):
        replace(path, lines(KEPT, scopes=scopes))
        until(lambda said=said: said in opened.ask(), server)  # type: ignore[misc]


def test_a_bad_file_keeps_the_tokens_and_is_told_once_by_each_worker(served: tuple[Server, Path]) -> None:
    server, path = served

    def told() -> int:
        return server.log().count('"event":"tokens not taken over"')

    def gone() -> None:
        path.unlink()

    bad: list[Callable[[], object]] = [
        lambda: replace(path, b"junk\n"),
        lambda: replace(path, b""),
        lambda: replace(path, lines(OTHER, scopes="infer@../x")),
        lambda: replace(path, lines(OTHER, OTHER)),
        lambda: replace(path, lines(OTHER), mode=0o666),
        gone,
        path.mkdir,
    ]
    for number, spoil in enumerate(bad):
        before = told()
        spoil()
        until(lambda before=before: told() >= before + 2, server)  # type: ignore[misc]
        time.sleep(1.2)
        assert told() == before + 2, number
        assert everywhere(server, KEPT) == everywhere(server, SECOND) == {200} and everywhere(server, OTHER) == {401}
    said = [line for line in server.log().splitlines() if "tokens not taken over" in line]
    assert all('"level":"error"' in line and str(path) in line for line in said)
    assert hashlib.sha256(OTHER.encode()).hexdigest()[:16] not in server.log() and OTHER not in server.log()
    path.rmdir()
    replace(path, lines(OTHER))
    assert until(lambda: everywhere(server, OTHER) == {200}, server) < 2 * WITHIN_S
    assert everywhere(server, KEPT) == {401}


def test_a_worker_that_is_replaced_while_the_file_is_bad_lets_the_same_people_in(served: tuple[Server, Path]) -> None:
    server, path = served
    replace(path, lines(OTHER))
    until(lambda: everywhere(server, OTHER) == {200}, server)
    replace(path, b"")
    old = server.workers()
    for number, pid in enumerate(old, start=1):
        os.kill(pid, signal.SIGKILL)
        until(lambda number=number: len(set(server.workers()) - set(old)) == number, server)  # type: ignore[misc]
    until(lambda: everywhere(server, OTHER) == {200}, server)
    assert everywhere(server, KEPT) == {401} and not set(old) & set(server.workers())
    replace(path, lines(KEPT))
    until(lambda: everywhere(server, KEPT) == {200} and everywhere(server, OTHER) == {401}, server)


def test_no_request_of_a_token_that_stays_is_refused_while_the_file_changes(served: tuple[Server, Path]) -> None:
    server, path = served
    failures: list[object] = []
    good, over = [0] * 4, threading.Event()

    def work(index: int) -> None:
        with contextlib.closing(server.connection()) as connection:
            while not over.is_set():
                try:
                    status = ask(connection, "POST", INFER, body(), bearer(KEPT)).status
                except OSError as error:
                    status = error  # type: ignore[assignment]
                if status != 200:
                    failures.append(status)
                good[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(good))]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + 4
    number = 0
    while time.monotonic() < until_s:
        number += 1
        more = [f"more-{number}-{one}" for one in range(number % 7 * 100)]
        replace(path, lines(*more, KEPT) if number % 5 else b"bad")
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    assert not failures and min(good) > 20


def test_a_file_behind_links_that_are_pointed_elsewhere_is_followed(bundle: Path, tmp_path: Path) -> None:
    for name, token in (("v1", KEPT), ("v2", SECOND)):
        (tmp_path / name).mkdir()
        replace(tmp_path / name / "tokens", lines(token))
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "tokens").symlink_to("data/tokens")
    with Server(f"m={bundle}", "--tokens", tmp_path / "tokens", "--workers", "1", command=TILTH) as server:
        assert everywhere(server, KEPT, 1) == {200}
        (tmp_path / "beside").symlink_to("v2")
        (tmp_path / "beside").replace(tmp_path / "data")
        for name in ("tokens.new", "tokens"):
            (tmp_path / "v1" / name).unlink(missing_ok=True)
        until(lambda: everywhere(server, SECOND, 1) == {200} and everywhere(server, KEPT, 1) == {401}, server)


def test_a_server_begins_with_nobody_where_the_file_says_so_and_not_with_an_empty_one(
    bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    replace(path, b"# nothing here\n")
    arguments = [f"m={bundle}", "--tokens", path, "--workers", "1"]
    with pytest.raises(RuntimeError, match="nobody could use the server"):
        Server(*arguments, command=TILTH, ready=False)
    replace(path, NOBODY)
    with Server(*arguments, command=TILTH) as server:
        assert everywhere(server, KEPT, 1) == {401}
        assert server.get("/v2/models").status == 404 and server.get("/v2").status == 401
        replace(path, lines(KEPT))
        until(lambda: everywhere(server, KEPT, 1) == {200}, server)
