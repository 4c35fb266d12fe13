"""A real server in processes of its own for tests: bundles made by hand, free ports, and an end by process id."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilth import wiring
from tilth.bridge.bundle_write import encode_value, sizes_of, write_bundle
from tilth.bridge.interface import read_signature
from tilth.bridge.skeleton import split
from tilth.core.build import Build, Precision, Scalar
from tilth.core.bundle import SCHEMA, Case, Choice, Golden, Manifest, Source
from tilth.core.certificate import Agreement, Certificate, Lanes, Placement, Timing
from tilth.testing.models import affine

FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_serve.py")))
TILTH = (sys.executable, "-m", "tilth", "serve", "--json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
ROW = [1.0, 2.0, 3.0, 4.0]
#: How long anything may take on a busy machine before a test gives up on it.
PATIENCE_S = 40.0


def bundle(
    path: Path,
    settings: Mapping[str, Scalar] | None = None,
    *,
    p50_ms: float = 1.0,
    scale: float = 1.0,
    lane: Mapping[str, Scalar] | None = None,
) -> Path:
    """Write a bundle of `y = x @ w + b`, certified by hand for this machine with the engine `fake`.

    `settings` say how it misbehaves; its first call is the one of the load. Below 0.5 ms it counts as small. With
    `lane` it has two lanes of a build with those settings.
    """
    small, device = affine(scale=scale), wiring.this_device()
    parts = split(small.model, None)
    inputs, outputs, blobs = {}, {}, dict(parts.blobs)
    for name, value in small.inputs(2).items():
        inputs[name], more = encode_value(value)
        blobs |= more
    for name, value in small.expected(2).items():
        outputs[name], more = encode_value(value)
        blobs |= more
    digest = parts.graph.digest
    build = Build(digest, device.target, "fake", Precision.FP32, variant=digest, settings=dict(settings or {}))
    certificate = Certificate(
        build=build.id,
        device=device,
        agreement=Agreement(0, 0, 0, 1, 1, 1, 2),
        agrees=True,
        tolerance="",
        timings=(Timing(1, p50_ms, p50_ms, p50_ms, 1e3 / p50_ms, 10, 0),),
        placement=Placement("numpy", {"numpy": 2}, 0.0, "test"),
        peak_memory_bytes=1 << 20,
        load_memory_bytes=1 << 20,
        load_ms=1,
        versions={"fake": "1.0"},
        inputs_digest="",
        measured_at="2026-11-24T00:00:00Z",
    )
    builds, certificates, busy = [build], [certificate], ""
    if lane is not None:
        builds.append(replace(build, settings={**lane, "threads": 1}))
        busy = builds[1].id
        lanes = Lanes(2, 1, 2 * p50_ms, 2 * p50_ms, 1.1e3 / p50_ms, 10, build.id, 1.1, 1.05, 1.15)
        certificates.append(replace(certificate, build=busy, timings=(), lanes=lanes))
    manifest = Manifest(
        schema=SCHEMA,
        name=path.stem,
        created_at="2026-11-24T00:00:00Z",
        source=Source("onnx", "1"),
        graphs=(parts.graph,),
        signature=read_signature(small.model, batched=False),
        golden=Golden("given", (Case(inputs, outputs),)),
        blobs=sizes_of(blobs),
        builds=tuple(builds),
        certificates=tuple(certificates),
        choices=(Choice(device.target, "latency", build.id, 1, {}, busy=busy),),
    )
    write_bundle(path, manifest, blobs)
    return path


def expected(scale: float = 1.0) -> list[float]:
    """Return what the affine graph answers to `ROW`."""
    model = affine(scale=scale)
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(model.model).run(None, {"x": np.array([ROW], np.float32)})
    answer: list[float] = found[0].tolist()
    return answer


def body(row: Sequence[float] = ROW, **more: Any) -> bytes:
    """Return an inference request of one row."""
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP32", "data": list(row)}
    return json.dumps({"inputs": [tensor], **more}).encode()


@dataclass
class Reply:
    """What came back of one HTTP request."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def row(self) -> list[float]:
        """The one output of an inference."""
        values: list[float] = self.json["outputs"][0]["data"]
        return values


class Server:
    """A server process; use it as a context manager, and `ready` waits until it answers for its models."""

    def __init__(self, *arguments: object, command: Sequence[str] = FAULTY, ready: bool = True) -> None:
        self._errors: list[str] = []
        self._process = subprocess.Popen(
            [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        self.pid = self._process.pid
        assert self._process.stderr is not None and self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True).start()
        line = self._process.stdout.readline()
        if not line.startswith('{"pid"'):
            said = line + self._process.stdout.read()
            self._process.wait(PATIENCE_S)
            self.stop()
            raise RuntimeError(f"no server: {said}{self.log()}")
        told = json.loads(line)
        self.address, self.grpc, self.manage = told["http"], told["grpc"], told.get("manage", "")
        self.port = int(self.address.rpartition(":")[2])
        if ready:
            self.wait_ready()

    def _listen(self, stream: Any) -> None:
        for line in stream:
            self._errors.append(line)

    def log(self) -> str:
        """Return what it has said on standard error so far."""
        return "".join(self._errors)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- processes

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        tree = self.tree()
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(PATIENCE_S)
        finally:
            for pid in [self.pid, *tree]:
                if alive(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None and self._process.poll() is not None:
                    stream.close()
        return code

    def interrupt(self) -> None:
        """Do what Ctrl-C does: SIGINT to its whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self) -> int:
        """Wait for its end by itself and return its exit code."""
        return self._process.wait(PATIENCE_S)

    def tree(self) -> list[int]:
        """Return the processes that it has started."""
        return sorted(_children(self.pid))

    def workers(self) -> list[int]:
        """Return its workers."""
        return [pid for pid in self.tree() if "worker" in _arguments(pid)]

    def runners(self) -> list[int]:
        """Return the processes of single models."""
        return [pid for pid in self.tree() if "runner" in _arguments(pid)]

    def resident_bytes(self) -> int:
        """Return the resident memory of all its processes together."""
        return sum(resident_bytes(pid) for pid in [self.pid, *self.tree()])

    def runtime(self) -> Path:
        """Return its folder of sockets and counters."""
        for worker in self.workers():
            for line in Path(f"/proc/{worker}/maps").read_text(encoding="utf-8").splitlines():
                if "/tilth-serve-" in line:
                    return Path(line.split(maxsplit=5)[5]).parent
        raise AssertionError("no worker has mapped a file of the runtime folder")

    # -- requests

    def connection(self, timeout_s: float = PATIENCE_S) -> http.client.HTTPConnection:
        """Return a keep-alive connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request on a connection of its own."""
        with contextlib.closing(self.connection()) as connection:
            return ask(connection, method, path, data, headers)

    def get(self, path: str) -> Reply:
        """GET a path."""
        return self.ask("GET", path)

    def post(self, path: str, told: Any = None) -> Reply:
        """POST an object as JSON."""
        return self.ask("POST", path, json.dumps(told if told is not None else {}).encode())

    def infer(self, model: str, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        """Send `ROW` to a model."""
        return self.ask("POST", f"/v2/models/{model}/infer", body(**more), headers)

    def wait_ready(self) -> None:
        """Wait until all models answer."""
        until(lambda: self.get("/v2/health/ready").status == 200, self)

    def index(self, name: str, version: str = "1") -> dict[str, str]:
        """Return a row of the repository's index."""
        rows: list[dict[str, str]] = self.post("/v2/repository/index").json
        return next(row for row in rows if row["name"] == name and row["version"] == version)

    def counter(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over the rows with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.get("/metrics").data.decode().splitlines()
        rows = [line for line in lines if line.startswith(name + "{") and all(one in line for one in wanted)]
        return sum(float(row.rpartition(" ")[2]) for row in rows)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send a request on a connection and read the whole answer."""
    connection.request(method, path, data, dict(headers or {}))
    got = connection.getresponse()
    return Reply(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())


def until(holds: Callable[[], Any], server: Server | None = None, seconds: float = PATIENCE_S) -> float:
    """Ask until something holds, and return how many seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if holds():
                return time.monotonic() - began
        time.sleep(0.02)
    raise AssertionError(f"it did not come to pass in {seconds:g} s: {server.log()[-3000:] if server else ''}")


@dataclass
class Load:
    """Clients that ask one model again and again over connections of their own, and what became of their requests.

    A failure is a status other than 200 or a connection that broke; a closed connection that nothing was sent on is
    opened anew, as clients do.
    """

    server: Server
    model: str
    clients: int = 4
    wanted: Sequence[list[float]] = ()
    good: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.good = [0] * self.clients
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(self.clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.wait_more(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a client hangs"

    def wait_more(self, count: int) -> None:
        """Wait until every client has had so many more good answers."""
        before = list(self.good)
        until(lambda: all(now >= was + count for now, was in zip(self.good, before, strict=True)), self.server)

    def _ask(self, index: int) -> None:
        connection = self.server.connection()
        while not self._over.is_set():
            began = time.monotonic()
            try:
                reply = ask(connection, "POST", f"/v2/models/{self.model}/infer", body())
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(f"{type(error).__name__}: {error}")
                connection.close()
                continue
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            if reply.status != 200:
                self.failures.append(f"{reply.status} {reply.data[:300]!r}")
            elif self.wanted and not any(np.allclose(reply.row, one, atol=1e-4) for one in self.wanted):
                self.failures.append(f"wrong answer {reply.row}")
            else:
                self.good[index] += 1
            self._over.wait(0.002)
        connection.close()


@contextlib.contextmanager
def raw(server: Server, timeout_s: float = PATIENCE_S) -> Iterator[socket.socket]:
    """A TCP connection to the server's REST port."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as connection:
        yield connection


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def resident_bytes(pid: int) -> int:
    """Return a process's own resident memory."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and alive(int(entry.name)) and _parent(int(entry.name)) == pid:
            found += [int(entry.name), *_children(int(entry.name))]
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
