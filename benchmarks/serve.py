"""How fast does Tilth serve, beside other servers, beside a bare handler, and beside its own engine in a loop?

Every server runs on this machine on loopback and gets the same model from the same client. Blocks of load take turns,
and a server that waits is stopped, since it would take the cores otherwise; a block during which the machine did not
give all of its cores is run again, up to a time that is stated. Every answer is compared with
onnxruntime's before a server is timed. Prints a table and writes JSON; `--docs` writes docs/reference/performance.md.

Parts: a JSON against other servers; b raw tensors against JSON; c gRPC; d ResNet-50 against the engine in a loop;
e p99 latency at 512 connections; f time until ready; g growth over loads and unloads.

It needs `wrk` and `h2load` (on Debian and Ubuntu: apt-get install wrk nghttp2-client). Part a and c install the other
servers with pip, each in an environment of its own in `$TILTH_PEERS` (default ~/.cache/tilth/peers).
"""

import argparse
import contextlib
import functools
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import numpy as np
import onnx
import serve_peers as processes
import zoo
from bridge import Contender, machine, quartiles, tilth, write_section
from peers import oip
from serve_peers import H2load, Load, Peer, Server, Unavailable, Wrk

from tilth.bridge.measure.cores import Cores, Seen

WORKERS = 2
CONNECTIONS = 32
MANY_CONNECTIONS = 512
#: Two for each worker, so that one waits while another is answered.
RESNET_CONNECTIONS = 4
#: Blocks are longer: what is under way at the end does not count, which in 5 s would be a hundredth and more.
RESNET_TIMES = 4
WIDTH = 37_500  # 150 kB of float32
WARM_CYCLES, MEMORY_CYCLES = 50, 1000
#: What Tilth is compared with in part a, and how many times its requests per second are wanted.
JSON_BARS: tuple[tuple[Peer, float | None], ...] = (
    (processes.MLSERVER, 6.0),
    (processes.BENTOML, 20.0),
    (processes.LITSERVE, 10.0),
    (processes.RAY, 40.0),
    (processes.RAY_HAPROXY, None),
    (processes.GRANIAN, 0.8),
)


@dataclass
class Result:
    """One line of the table: a figure with its quartiles, or why there is none."""

    part: str
    what: str
    own: str = ""
    other: str = ""
    figure: list[float] = field(default_factory=list)
    bar: float | None = None
    at_most: bool = False
    unit: str = ""
    missing: str = ""

    def met(self) -> bool | None:
        """Return whether the median is within the bar; None without a bar or a figure."""
        if self.bar is None or not self.figure:
            return None
        return self.figure[1] <= self.bar if self.at_most else self.figure[1] >= self.bar


@dataclass(frozen=True)
class Case:
    """A model as a file and as a bundle, one request, and onnxruntime's answer to it."""

    name: str
    model: Path
    bundle: Path
    feeds: dict[str, np.ndarray]
    expected: list[np.ndarray]

    @property
    def path(self) -> str:
        """The path that the request is posted to."""
        return f"/v2/models/{self.name}/infer"

    def check(self, answer: Sequence[np.ndarray]) -> None:
        """Compare an answer with onnxruntime's.

        Raises:
            Unavailable: it differs by more than rounding does.
        """
        for found, wanted in zip(answer, self.expected, strict=True):
            error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
            if found.shape != wanted.shape or not error < 1e-3:
                raise Unavailable(f"answers {found.shape} with a relative error of {error:.1e}")


class Bench:
    """The options, the models, and servers that end with a part."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self._cores = Cores(len(os.sched_getaffinity(0)))
        self.blocks = self.clear_blocks = 0
        self.case = functools.cache(self._made)

    def tilth(self, stack: contextlib.ExitStack, case: Case, workers: int = WORKERS) -> Server:
        """Start Tilth with one model, check its answers over REST and gRPC, and let it wait."""
        server = processes.start_tilth({case.name: case.bundle}, self.folder, workers)
        stack.callback(server.close)
        server.wait(processes.is_ready(server))
        body, headers = oip.binary_request(case.feeds)
        case.check(rest_answer(server, case.path, oip.json_request(case.feeds), JSON))
        case.check(rest_answer(server, case.path, body, headers))
        case.check(grpc_answer(server, case))
        server.pause()
        return server

    def peer(self, stack: contextlib.ExitStack, peer: Peer, case: Case, *, over_grpc: bool = False) -> Server:
        """Start another server, check its answer, and let it wait.

        Raises:
            Unavailable: it cannot be installed or started, or its answer is wrong.
        """
        print(f"  starting {peer.title}", file=sys.stderr, flush=True)
        server = peer.start(case.model, self.folder)
        stack.callback(server.close)
        if over_grpc:
            server.wait(lambda: grpc_listens(server))
            case.check(grpc_answer(server, case))
        else:
            body = peer_body(peer, case)
            server.wait(lambda: processes.request(server.http, "POST", peer.path, body, JSON)[0] == 200)
            case.check(rest_answer(server, peer.path, body, JSON, plain=peer.plain))
        server.pause()
        return server

    def block(self, server: Server, load: Callable[[float], Load], times: int = 1) -> Load:
        """Let a server run, warm it up for a second, and return what was seen in a block, or in `times` as long."""

        def run() -> Load:
            with server.running():
                load(1.0)
                return load(times * self.options.seconds)

        seen = self.with_all_cores(run)
        if not seen.rate:
            raise Unavailable(f"{server.title} answered nothing: {server.last_words()}")
        return seen

    def with_all_cores(self, run: Callable[[], Seen]) -> Seen:
        """Return what `run` does; once more when the machine did not give all cores before and after, while it may."""
        seen, clear = self._cores.with_all(run, time.monotonic() + self.options.patience)
        self.blocks, self.clear_blocks = self.blocks + 1, self.clear_blocks + clear
        return seen

    def turns(self, blocks: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Run every block once per round, each round from another start, and return what they gave."""
        names, seen = list(blocks), {name: [] for name in blocks}
        for cycle in range(self.options.rounds):
            for name in names[cycle % len(names) :] + names[: cycle % len(names)]:
                seen[name].append(blocks[name]())
        return seen

    def _made(self, name: str) -> Case:
        if name == "wide":
            model, feeds, sample = wide(self.folder)
        else:
            (found,) = zoo.models({name})
            model, feeds, sample = found.path, found.sample, found.calibration
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        npz, bundle = self.folder / f"{name}.npz", self.folder / f"{name}.tilth"
        np.savez(npz, **sample)
        tilth("import", str(model), "--sample", str(npz), "-o", str(bundle))
        tilth("build", str(bundle))
        return Case(name, model, bundle, feeds, session.run(None, feeds))


FAILURES = (Unavailable, OSError, http.client.HTTPException)
JSON = {"Content-Type": "application/json"}
GRPC = {"content-type": "application/grpc", "te": "trailers"}


def told(error: Exception) -> str:
    """Return why something is missing from the table."""
    return str(error) if isinstance(error, Unavailable) else f"fails: {type(error).__name__}: {error}"


def wide(folder: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a model with much input and little work, one request and a sample.

    Its numbers have four decimals, which keeps their JSON short: with all digits of a float32 it would be thrice
    as long, and raw tensors would look better.
    """
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(0, 0.01, (WIDTH, 8)).astype(np.float32), "weight")
    value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["input", "weight"], ["output"])],
        "wide",
        [value("input", shape=["batch", WIDTH])],
        [value("output", shape=["batch", 8])],
        [weight],
    )
    path = folder / "wide.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    rows = rng.normal(0, 1, (9, WIDTH)).round(4).astype(np.float32)
    return path, {"input": rows[:1]}, {"input": rows[1:]}


def short_json(feeds: dict[str, np.ndarray]) -> bytes:
    """Return a request in JSON with four decimals."""
    return oip.json_request({name: array.astype(np.float64).round(4) for name, array in feeds.items()}).replace(
        b"FP64", b"FP32"
    )


def peer_body(peer: Peer, case: Case) -> bytes:
    """Return a request as the server takes it."""
    if peer.plain:
        return json.dumps({"rows": case.feeds["input"].tolist()}, separators=(",", ":")).encode()
    return oip.json_request(case.feeds)


def rest_answer(
    server: Server, path: str, body: bytes, headers: dict[str, str], *, plain: bool = False
) -> list[np.ndarray]:
    """Return the arrays that one request is answered with.

    Raises:
        Unavailable: the answer is an error.
    """
    status, found, answer = processes.request(server.http, "POST", path, body, headers)
    if status != 200:
        raise Unavailable(f"answers with status {status}: {answer[:200].decode(errors='replace')}")
    if plain:
        return [np.asarray(json.loads(answer), np.float32)]
    return oip.read_rest(answer, found["Inference-Header-Content-Length"])


def grpc_answer(server: Server, case: Case) -> list[np.ndarray]:
    """Return the arrays that one ModelInfer is answered with.

    Raises:
        Unavailable: the answer is an error.
    """
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        call = channel.unary_unary(
            oip.METHOD, oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
        )
        try:
            answer = call(oip.infer_request(case.name, case.feeds), timeout=30)
        except grpc.RpcError as error:
            raise Unavailable(f"answers with {error.code()}: {error.details()}") from None
    return oip.arrays_of(answer.outputs, answer.raw_output_contents)


def grpc_listens(server: Server) -> bool:
    """Return whether the server takes connections for gRPC."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
    return True


def small_json(bench: Bench) -> list[Result]:
    """Part a: a small MLP, JSON over REST, 32 connections, against other servers."""
    case, results, servers = bench.case("mlp"), [], {}
    with contextlib.ExitStack() as stack:
        own = bench.tilth(stack, case)
        own_client = Wrk(bench.folder, case.path, oip.json_request(case.feeds), JSON)
        for peer, _ in JSON_BARS:
            try:
                servers[peer] = bench.peer(stack, peer, case)
            except FAILURES as error:
                results.append(Result("a", f"JSON, against {peer.title}", missing=told(error)))
        rates: dict[Peer, list[tuple[float, float]]] = {peer: [] for peer in servers}
        for _ in range(bench.options.rounds):
            for peer, server in list(servers.items()):
                client = Wrk(bench.folder, peer.path, peer_body(peer, case), JSON)
                try:
                    theirs = bench.block(server, lambda s, c=client, at=server: c.run(at, CONNECTIONS, s)).rate
                except FAILURES as error:
                    results.append(Result("a", f"JSON, against {peer.title}", missing=told(error)))
                    del servers[peer]
                    continue
                ours = bench.block(own, lambda s: own_client.run(own, CONNECTIONS, s)).rate
                rates[peer].append((ours, theirs))
    for peer, bar in JSON_BARS:
        if peer in servers:
            ours, theirs = zip(*rates[peer], strict=True)
            what = f"JSON, against {' '.join(filter(None, [peer.title, peer.version()]))}"
            results.append(compared("a", what, ours, theirs, bar))
    return results


def raw_tensors(bench: Bench) -> list[Result]:
    """Part b: 150 kB of input as raw tensors and as JSON."""
    case = bench.case("wide")
    text, (body, headers) = short_json(case.feeds), oip.binary_request(case.feeds)
    with contextlib.ExitStack() as stack:
        server = bench.tilth(stack, case)
        with server.running():
            case.check(rest_answer(server, case.path, text, JSON))
        clients = {
            "json": Wrk(bench.folder, case.path, text, JSON),
            "raw": Wrk(bench.folder, case.path, body, headers),
        }
        seen = bench.turns(
            {
                name: lambda c=client: bench.block(server, lambda s: c.run(server, CONNECTIONS, s)).rate
                for name, client in clients.items()
            }
        )
    what = f"{len(body) / 1e3:.0f} kB of raw tensors, against the same as {len(text) / 1e3:.0f} kB of JSON"
    return [compared("b", what, seen["raw"], seen["json"], 1.5)]


def over_grpc(bench: Bench) -> list[Result]:
    """Part c: gRPC against a bare handler, against itself with fewer workers, and against MLServer."""
    case, missing = bench.case("mlp"), {}
    client = H2load(bench.folder, oip.METHOD, oip.framed(oip.infer_request(case.name, case.feeds)), GRPC)
    least = sum(array.nbytes for array in case.expected)

    def rate(server: Server) -> float:
        load = bench.block(server, lambda seconds: client.run(server.grpc, CONNECTIONS, seconds))
        if load.answer_bytes < least:
            raise Unavailable(f"{server.title} answers with {load.answer_bytes:.0f} bytes: {server.last_words()}")
        return load.rate

    with contextlib.ExitStack() as stack:
        servers = {"one": bench.tilth(stack, case, 1), "two": bench.tilth(stack, case, WORKERS)}
        for name, peer in (("bare", processes.GRPC), ("mlserver", processes.MLSERVER)):
            try:
                servers[name] = bench.peer(stack, peer, case, over_grpc=True)
            except FAILURES as error:
                missing[name] = told(error)
        seen = bench.turns({name: functools.partial(rate, server) for name, server in servers.items()})
    version = "" if "mlserver" in missing else f" {processes.MLSERVER.version()}"
    lines = (
        ("gRPC with 1 worker, against a bare grpc.aio handler", "one", "bare", 0.9),
        (f"gRPC with {WORKERS} workers, against 1", "two", "one", 1.0),
        (f"gRPC with {WORKERS} workers, against MLServer{version}", "two", "mlserver", 2.2),
    )
    return [
        Result("c", what, missing=missing[other])
        if other in missing
        else compared("c", what, seen[own], seen[other], bar)
        for what, own, other, bar in lines
    ]


class Loop(Contender):
    """The engine called in a loop in a process of its own, through the public API."""

    def block(self, seconds: float) -> float:
        """Return the calls per second of a block."""
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        return 1e9 / statistics.fmean(json.loads(answer)["ns"])


def resnet(bench: Bench) -> list[Result]:
    """Part d: ResNet-50 as raw tensors over REST, against the engine in a loop."""
    case, feeds = bench.case("resnet50"), bench.folder / "resnet50-feeds.npz"
    np.savez(feeds, **case.feeds)
    client = Wrk(bench.folder, case.path, *oip.binary_request(case.feeds))
    with contextlib.ExitStack() as stack:
        loop = Loop("tilth", case.bundle, feeds)
        stack.callback(loop.close)
        if loop.error:
            raise Unavailable(f"the engine does not load: {loop.error}")
        servers = {f"{count}": bench.tilth(stack, case, count) for count in (1, WORKERS)}
        blocks: dict[str, Callable[[], float]] = {
            "loop": lambda: bench.with_all_cores(lambda: loop.block(RESNET_TIMES * bench.options.seconds))
        }
        for name, server in servers.items():
            client_load = functools.partial(client.run, server, RESNET_CONNECTIONS)
            blocks[name] = lambda at=server, load=client_load: bench.block(at, load, RESNET_TIMES).rate
        seen = bench.turns(blocks)
    return [
        compared("d", f"ResNet-50 with {name} worker(s), against the engine in a loop", seen[name], seen["loop"], 0.97)
        for name in servers
    ]


def tail(bench: Bench) -> list[Result]:
    """Part e: p99 latency at many connections, over the mean that queueing alone explains."""
    case = bench.case("mlp")
    client = H2load(bench.folder, case.path, oip.json_request(case.feeds), JSON, http1=True)
    loads = []
    with contextlib.ExitStack() as stack:
        server = bench.tilth(stack, case)
        for _ in range(bench.options.rounds):
            loads.append(bench.block(server, lambda s: client.run(server.http, MANY_CONNECTIONS, s, latency=True)))
    explained = [1e3 * MANY_CONNECTIONS / load.rate for load in loads]
    figure = quartiles([load.p99_ms / mean for load, mean in zip(loads, explained, strict=True)])
    own = f"p99 {statistics.median(load.p99_ms for load in loads):.1f} ms"
    other = f"{statistics.median(explained):.1f} ms at {_rate([load.rate for load in loads])}"
    what = f"p99 at {MANY_CONNECTIONS} connections, over the mean that Little's law gives"
    return [Result("e", what, own, other, figure, 3.0, at_most=True)]


def ready(bench: Bench) -> list[Result]:
    """Part f: seconds from the start of `tilth serve` until it calls itself ready."""
    case, taken = bench.case("mlp"), []
    for _ in range(max(bench.options.rounds, 5) + 1):
        start = time.perf_counter()
        server = processes.start_tilth({case.name: case.bundle}, bench.folder, WORKERS)
        try:
            server.wait(processes.is_ready(server), poll_s=0.005)
            taken.append(time.perf_counter() - start)
            case.check(rest_answer(server, case.path, oip.json_request(case.feeds), JSON))
        finally:
            server.close()
    own = taken[1:]  # the first start fills the disk cache
    return [Result("f", "ready with a small model", f"longest {max(own):.2f} s", "", quartiles(own), 1.5, True, "s")]


def growth(bench: Bench) -> list[Result]:
    """Part g: latency and memory after many loads and unloads."""
    case, loads = bench.case("mlp"), bench.options.loads
    client = Wrk(bench.folder, case.path, oip.json_request(case.feeds), JSON)
    with contextlib.ExitStack() as stack:
        aged, fresh = bench.tilth(stack, case), bench.tilth(stack, case)
        with aged.running():
            start = time.perf_counter()
            first, last = cycle(aged, case, loads)
            took_ms = (time.perf_counter() - start) / loads * 1e3
        # Side by side with one that loaded once: the hour may have changed the machine meanwhile.
        seen = bench.turns(
            {
                name: lambda at=server: bench.block(at, lambda s: client.run(at, 1, s)).p50_ms
                for name, server in (("aged", aged), ("fresh", fresh))
            }
        )
    latency = quartiles([a / b for a, b in zip(seen["aged"], seen["fresh"], strict=True)])
    own, other = (f"p50 {statistics.median(seen[name]):.3f} ms" for name in ("aged", "fresh"))
    done = min(loads, WARM_CYCLES + MEMORY_CYCLES) - WARM_CYCLES
    return [
        Result("g", f"latency after {loads:,} loads and unloads ({took_ms:.0f} ms each)", own, other, latency),
        Result(
            "g",
            f"memory after {done:,} more loads and unloads",
            _memory(last),
            f"{_memory(first)} after {WARM_CYCLES}",
            [last[0] / first[0]] * 3,
            1.05,
            at_most=True,
        ),
    ]


def cycle(server: Server, case: Case, loads: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Unload and load `loads` times, with a request each; return the memory after the warm-up and 1,000 later.

    Both as `Server.memory_bytes` gives it.

    Raises:
        Unavailable: an answer was an error.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=60)
    repository, body = f"/v2/repository/models/{case.name}", oip.json_request(case.feeds)
    memory = []
    for done in range(1, loads + 1):
        for path, content in ((f"{repository}/unload", b"{}"), (f"{repository}/load", b"{}"), (case.path, body)):
            connection.request("POST", path, content, JSON)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Unavailable(f"{path} answers with status {answer.status}: {text[:200].decode(errors='replace')}")
        if done in {WARM_CYCLES, min(WARM_CYCLES + MEMORY_CYCLES, loads)}:
            memory.append(server.memory_bytes())
    connection.close()
    return memory[0], memory[-1]


def _memory(size: tuple[int, int]) -> str:
    return f"{size[0] / 1e6:.0f} MB ({size[1] / 1e6:.0f} anonymous)"


def compared(part: str, what: str, own: Sequence[float], other: Sequence[float], bar: float | None) -> Result:
    """Return the line of a comparison of requests per second, block by block."""
    figure = quartiles([a / b for a, b in zip(own, other, strict=True)])
    return Result(part, what, _rate(own), _rate(other), figure, bar)


def _rate(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:,.0f}/s" if middle >= 100 else f"{middle:.1f}/s"


PARTS: dict[str, Callable[[Bench], list[Result]]] = {
    "a": small_json,
    "b": raw_tensors,
    "c": over_grpc,
    "d": resnet,
    "e": tail,
    "f": ready,
    "g": growth,
}


def table(results: list[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| part | what | Tilth | against | figure | bar | met |", "|---|---|--:|--:|--:|--:|---|"]
    for r in results:
        if r.missing:
            lines.append(f"| {r.part} | {r.what} | - | - | not measured: {r.missing.replace('|', '/')} | - | - |")
            continue
        low, middle, high = (f"{value:.3g}" for value in r.figure)
        bar = "-" if r.bar is None else f"{'at most' if r.at_most else 'at least'} {r.bar:g}{r.unit and ' ' + r.unit}"
        met = {True: "yes", False: "**no**", None: "-"}[r.met()]
        figure = f"{middle}{r.unit and ' ' + r.unit} ({low} to {high})"
        lines.append(f"| {r.part} | {r.what} | {r.own} | {r.other} | {figure} | {bar} | {met} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, such as a,c")
    parser.add_argument("--seconds", type=float, default=5, help="per block; whole seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=30.0, help="most seconds a block to wait for all cores")
    parser.add_argument("--loads", type=int, default=10_000, help="loads and unloads of part g, at least 51")
    parser.add_argument("--json", type=Path, default=Path("out/serve.json"))
    parser.add_argument("--docs", type=Path, help="write the table into this Markdown file, between its markers")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := sorted(set(wanted) - PARTS.keys()):
        parser.error(f"unknown part `{', '.join(unknown)}`; known: {', '.join(PARTS)}")
    if absent := [name for name in ("wrk", "h2load") if not shutil.which(name)]:
        parser.error(f"no `{', '.join(absent)}`; on Debian and Ubuntu run: apt-get install wrk nghttp2-client")
    if {"a", "c"} & set(wanted):
        for peer, _ in JSON_BARS:
            with contextlib.suppress(*FAILURES):  # said again, and shown, where it is started
                peer.installed()
    processes.become_alone()
    # Servers that wait are stopped: ended without notice, this program would leave them behind for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results: list[Result] = []
    others = busy()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for name in wanted:
            print(PARTS[name].__doc__, file=sys.stderr, flush=True)
            try:
                results += PARTS[name](bench)
            except FAILURES as error:
                results.append(
                    Result(name, str(PARTS[name].__doc__).partition(": ")[2], missing=f"Tilth {told(error)}")
                )
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps([asdict(r) for r in results], indent=2), encoding="utf-8")
    date = time.strftime("%Y-%m-%d")
    head = f"Measured on {machine()}, {date}, with `python benchmarks/serve.py {' '.join(sys.argv[1:])}`."
    head += f" The machine gave all of its cores for {bench.clear_blocks} of {bench.blocks} blocks."
    head += f" Just before, other programs took {others:.0%} of the cores."
    text = f"{head}\n\n{table(results)}\n"
    print(text)
    if options.docs:
        write_section(options.docs, "serve", text)


def busy(seconds: float = 2) -> float:
    """Return the share of the cores that other programs take while this one waits."""

    def ticks() -> list[int]:
        return [int(value) for value in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]

    before = ticks()
    time.sleep(seconds)
    spent = [after - start for start, after in zip(before, ticks(), strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


if __name__ == "__main__":
    main()
