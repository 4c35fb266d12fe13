"""The processes of the serving benchmark: Tilth, the servers beside it in their own environments, and the clients."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilth.bridge.measure.worker import last_words, memory_bytes

HERE = Path(__file__).resolve().parent
_MARK = "TILTH_BENCH_SERVER"
_ALONE = "TILTH_BENCH_ALONE"
_START_S = 120.0


class Unavailable(Exception):
    """A server that cannot be installed, started or trusted; the text says why."""


@dataclass(frozen=True)
class Peer:
    """A server to compare with. `requirements` are installed in turn; none at all means Tilth's own environment."""

    title: str
    file: str
    requirements: tuple[tuple[str, ...], ...] = ()
    distribution: str = ""
    workers: int = 2
    path: str = "/"
    #: Its requests are `{"rows": ...}` and its answers lists, not the Open Inference Protocol's.
    plain: bool = False
    #: It listens beyond loopback too, and starts only where nothing outside can reach it.
    exposed: bool = False
    env: tuple[tuple[str, str], ...] = ()

    def installed(self) -> Path:
        """Return its Python, installing it first where it is not there.

        Raises:
            Unavailable: pip failed.
        """
        if not self.requirements:
            return Path(sys.executable)
        folder = cache() / self.distribution
        python, done = folder / "bin" / "python", folder / "installed.json"
        if done.exists() and json.loads(done.read_text(encoding="utf-8")) == [list(r) for r in self.requirements]:
            return python
        print(f"installing {self.title} into {folder} ...", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = folder / "install.log"
        with log.open("wb") as out:
            commands = [[sys.executable, "-m", "venv", str(folder)]]
            commands += [[str(python), "-m", "pip", "install", *each] for each in self.requirements]
            for command in commands:
                if subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False).returncode:
                    raise Unavailable(f"not installed: {_short(log)}")
        done.write_text(json.dumps(self.requirements), encoding="utf-8")
        return python

    def version(self) -> str:
        """Return the installed version, or nothing for a handler of this benchmark."""
        if not self.requirements:
            return ""
        code = f"import importlib.metadata as m; print(m.version({self.distribution!r}))"
        command = [str(self.installed()), "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def start(self, model: Path, folder: Path) -> "Server":
        """Start it with `model`, without waiting for it.

        Raises:
            Unavailable: it is not installed, or would be reached from outside.
        """
        python = self.installed()
        if self.exposed and _ALONE not in os.environ:
            raise Unavailable("listens on every interface, and this user may not make a network namespace for it")
        ports = free_ports(2)
        env = {"PEER_MODEL": str(model), "PEER_PORT": str(ports[0]), "PEER_GRPC_PORT": str(ports[1])}
        env |= {"PEER_WORKERS": str(self.workers), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        env |= dict(self.env)
        command = [str(python), str(HERE / "peers" / self.file)]
        return Server(self.title, command, folder, ports, env)


_ORT = ("onnxruntime",)
# MLServer 1.7.1 asks for an event loop where uvloop 0.22 and later have none.
# Its pool of processes halves what it does with a small model, hence no workers.
MLSERVER = Peer(
    "MLServer",
    "with_mlserver.py",
    (("mlserver", "uvloop<0.22", *_ORT),),
    "mlserver",
    workers=0,
    path="/v2/models/mlp/infer",
)
BENTOML = Peer("BentoML", "with_bentoml.py", (("bentoml", *_ORT),), "bentoml", path="/infer", plain=True)
# torch first and from this machine's index: asked for by another package it comes with several GB for GPUs.
LITSERVE = Peer("LitServe", "with_litserve.py", (("torch==2.13.0",), ("litserve", *_ORT)), "litserve", path="/predict")
RAY = Peer("Ray Serve", "with_ray.py", (("ray[serve]", *_ORT),), "ray")
# The two settings are its documentation's high throughput mode.
RAY_HAPROXY = replace(
    RAY,
    title="Ray Serve (HAProxy mode)",
    exposed=True,
    env=(("RAY_SERVE_ENABLE_HA_PROXY", "1"), ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")),
)
GRANIAN = Peer("bare granian", "bare_granian.py")
GRPC = Peer("bare grpc.aio", "bare_grpc.py", workers=1)


def become_alone() -> None:
    """Start this program again in a network namespace of its own, where only loopback is; go on here if that fails."""
    inside = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]
    if _ALONE in os.environ or subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=False).returncode:
        return
    os.environ[_ALONE] = "1"
    script = 'ip link set lo up && exec "$@"'
    os.execvp(inside[0], [*inside, "sh", "-c", script, "sh", sys.executable, *sys.argv])  # noqa: S606


def cache() -> Path:
    """Return the folder of the peers' environments."""
    return Path(os.environ.get("TILTH_PEERS") or Path.home() / ".cache" / "tilth" / "peers")


class Server:
    """A server and all the processes that it starts, found again by a mark in their environment.

    It leads a session of its own. `ports` are those of HTTP and gRPC on loopback.
    """

    def __init__(
        self, title: str, command: Sequence[str], folder: Path, ports: Sequence[int], env: dict[str, str] | None = None
    ) -> None:
        self.title = title
        self.http, self.grpc = ports
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        name = re.sub(r"\W+", "-", title.lower())
        folder = folder / f"{name}-{self.http}"
        folder.mkdir()
        self._log = folder / "log.txt"
        mark, _, value = self._mark.partition("=")
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=folder,
                env={**os.environ, **(env or {}), mark: value},
                start_new_session=True,
            )

    def wait(self, ready: Callable[[], bool], timeout_s: float = _START_S, poll_s: float = 0.05) -> None:
        """Return when `ready` says so; a refused connection means not yet.

        Raises:
            Unavailable: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            if self._process.poll() is not None:
                raise Unavailable(f"ended while starting: {_short(self._log)}")
            if time.monotonic() > deadline:
                raise Unavailable(f"not ready within {timeout_s:.0f} s: {_short(self._log)}")
            time.sleep(poll_s)

    def pause(self) -> None:
        """Stop its processes where they are, so that they take no time from who is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def running(self) -> Iterator["Server"]:
        """Let it run in a block, and stop it where it is afterwards."""
        self.resume()
        try:
            yield self
        finally:
            self.pause()

    def memory_bytes(self) -> tuple[int, int]:
        """Return the proportional set size of all its processes, and how much of it no file backs.

        The first changes when another program maps the same libraries; the second does not.
        """
        pids = self._pids()
        return sum(map(memory_bytes, pids)), sum(map(_anonymous_bytes, pids))

    def close(self) -> None:
        """Ask it to end, and end what is left after ten seconds."""
        self.resume()
        known = self._pids()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        for pid, born in {**known, **self._pids()}.items():
            if _born(pid) == born:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return _short(self._log)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _pids(self) -> dict[int, str]:
        """Return its processes with the time each was born at: those with its mark, and all below them.

        A program that changes its title writes over its environment, so that the mark alone does not tell.
        """
        parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
        found = {pid for pid in parents if self._is_marked(pid)}
        found |= {self._process.pid} & parents.keys()
        while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
            found |= more
        return {pid: parents[pid][1] for pid in found}

    def _is_marked(self, pid: int) -> bool:
        try:
            return f"{self._mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False


def _stat(pid: int) -> tuple[int, str]:
    """Return a process's parent and the time it was born at."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0, ""
    # A zombie waits for its parent and takes nothing.
    return (0, "") if fields[0] == "Z" else (int(fields[1]), fields[19])


def _anonymous_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return 1024 * int(_found(r"Pss_Anon:\s+(\d+)", text))


def _born(pid: int) -> str:
    return _stat(pid)[1]


def start_tilth(bundles: dict[str, Path], folder: Path, workers: int) -> Server:
    """Start `tilth serve` with `bundles` by name, without waiting for it."""
    ports = free_ports(2)
    models = [f"{name}={path}" for name, path in bundles.items()]
    address = ["--http", f"127.0.0.1:{ports[0]}", "--grpc", f"127.0.0.1:{ports[1]}", "--workers", str(workers)]
    return Server(f"Tilth {workers}", [sys.executable, "-m", "tilth", "serve", *models, *address], folder, ports)


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def request(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send one HTTP request on a connection of its own and return its status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def is_ready(server: Server) -> Callable[[], bool]:
    """Return the question whether the server calls itself ready."""
    return lambda: request(server.http, "GET", "/v2/health/ready")[0] == 200


@dataclass(frozen=True)
class Load:
    """What a client saw in one block. `answer_bytes` is 0 where the client does not count them."""

    rate: float
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    answer_bytes: float = 0.0


_LUA = """
local file = assert(io.open({body}, "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"requests": %d, "us": %d, "mean": %f, "p50": %d, "p99": %d, "errors": %d}}\\n',
    summary.requests, summary.duration, summary.requests > 0 and latency.mean or 0,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Wrk:
    """An HTTP client that sends one body over and over: `wrk` on one thread."""

    def __init__(self, folder: Path, path: str, body: bytes, headers: dict[str, str]) -> None:
        name = uuid.uuid4().hex
        self._path, self._script = path, folder / f"{name}.lua"
        content = folder / f"{name}.body"
        content.write_bytes(body)
        lines = [f"wrk.headers[{json.dumps(key)}] = {json.dumps(value)}" for key, value in headers.items()]
        script = _LUA.format(body=json.dumps(str(content)), headers="\n".join(lines))
        self._script.write_text(script, encoding="utf-8")

    def run(self, server: Server, connections: int, seconds: float) -> Load:
        """Load the server and return what was seen.

        Raises:
            Unavailable: an answer was an error, or did not come.
        """
        # wrk takes whole seconds.
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["-s", str(self._script), f"http://127.0.0.1:{server.http}{self._path}"]
        printed = _output(command)
        seen = json.loads(printed.strip().splitlines()[-1])
        if seen["errors"]:
            raise Unavailable(f"{seen['errors']} of {seen['requests']} requests failed: {server.last_words()}")
        rate = seen["requests"] / seen["us"] * 1e6
        return Load(rate, seen["mean"] / 1e3, seen["p50"] / 1e3, seen["p99"] / 1e3)


class H2load:
    """An HTTP/2 or HTTP/1.1 client that sends one body over and over: `h2load` on one thread."""

    def __init__(self, folder: Path, path: str, body: bytes, headers: dict[str, str], *, http1: bool = False) -> None:
        self._path, self._headers, self._http1 = path, headers, http1
        self._body, self._log = folder / f"{uuid.uuid4().hex}.body", folder / f"{uuid.uuid4().hex}.log"
        self._body.write_bytes(body)

    def run(self, port: int, connections: int, seconds: float, *, latency: bool = False) -> Load:
        """Load a port and return what was seen; with `latency`, figures of the latency of every single request too.

        A gRPC error has status 200, so that whoever calls compares `answer_bytes`.

        Raises:
            Unavailable: a request failed.
        """
        command = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{max(1, round(seconds))}", "-d", str(self._body)]
        command += [part for key, value in self._headers.items() for part in ("-H", f"{key}: {value}")]
        command += ["--h1"] if self._http1 else []
        if latency:
            self._log.unlink(missing_ok=True)
            command += ["--log-file", str(self._log)]
        printed = _output([*command, f"http://127.0.0.1:{port}{self._path}"])
        rate = float(_found(r"finished in .*?, ([\d.]+) req/s", printed))
        good, failed = _found(r"(\d+) succeeded", printed), _found(r"(\d+) failed", printed)
        status, content = _found(r"status codes: (\d+) 2xx", printed), _found(r"\((\d+)\) data", printed)
        if int(failed) or not int(good) or int(status) < int(good):
            raise Unavailable(f"{failed} of {good} requests failed, {status} with status 2xx")
        load = Load(rate, answer_bytes=int(content) / int(good))
        if latency:
            took_ms = np.loadtxt(self._log, usecols=2, ndmin=1) / 1e3
            p50, p99 = (float(value) for value in np.quantile(took_ms, [0.5, 0.99]))
            load = replace(load, mean_ms=float(took_ms.mean()), p50_ms=p50, p99_ms=p99)
        return load


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Unavailable(f"`{command[0]}` failed: {done.stderr or done.stdout}")
    return done.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if not match:
        raise Unavailable(f"`{pattern}` is not in: {text}")
    return match[1]


def _short(log: Path) -> str:
    """Return the last words of a log as one line."""
    return " ".join(last_words(log).split())[-300:]
