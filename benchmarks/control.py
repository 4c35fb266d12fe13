"""How fast is the control plane, with as much in its store as a company has?

Parts: a time until ready, and memory; b latency of reads, writes and lists at a fixed rate of requests that do not wait
for one another, on SQLite and on PostgreSQL, with 100,000 versions and 10,000 devices in the store; c registering a
model version beside MLflow's own server; d upload of a 500 MB bundle beside the disk and loopback.

Prints a table and writes JSON; `--docs` writes docs/reference/performance.md. Part b wants Debian's postgresql.
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import control_push
import control_store
from bridge import machine, write_section

from tilth.bridge.measure.worker import memory_bytes
from tilth.client.client import Client

RATE, WARM_S = 200.0, 5.0
STARTS = 10
READY_S, MEMORY_MB = 3.0, 200.0
#: Most ms of the 99th percentile, by kind of request.
BARS = {"read": 15.0, "write": 30.0, "list": 50.0}


@dataclass(frozen=True)
class Result:
    """A row of the table. `figure` is what `bar` is for; at most that, or at least with `at_least`."""

    part: str
    what: str
    told: str
    figure: float | None = None
    unit: str = ""
    bar: float | None = None
    at_least: bool = False

    def met(self) -> str:
        """Return whether the bar is met, in words."""
        if self.bar is None or self.figure is None:
            return "-"
        return "yes" if (self.figure >= self.bar if self.at_least else self.figure <= self.bar) else "**no**"


@dataclass
class Plane:
    """A control plane that runs."""

    process: "subprocess.Popen[bytes]"
    address: str
    token: str
    ready_s: float
    kinds: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)


@contextlib.contextmanager
def running(home: Path, *more: str, token: str = "") -> Iterator[Plane]:
    """Start a control plane on free ports, and end it."""
    command = [sys.executable, "-m", "tilth", "up", "--home", str(home), "--port", "0", "--json"]
    command += ["--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0", *more]
    start = time.perf_counter()
    with (home.parent / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield Plane(process, told["address"], told["token"] or token, time.perf_counter() - start)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def starting(options: argparse.Namespace) -> list[Result]:
    """a: time until ready, and memory."""
    fresh, again, memory = [], [], []
    for _ in range(options.starts):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            with running(home) as plane:
                fresh.append(plane.ready_s)
            with running(home) as plane:
                again.append(plane.ready_s)
                time.sleep(1)
                memory.append(memory_bytes(plane.process.pid) / 1e6)
    return [
        Result("a", "first start, longest of them", _spread(fresh, "s"), max(fresh), "s", READY_S),
        Result("a", "later start, longest of them", _spread(again, "s"), max(again), "s", READY_S),
        Result("a", "memory a second after the start", _spread(memory, "MB"), max(memory), "MB", MEMORY_MB),
    ]


def loaded(options: argparse.Namespace) -> list[Result]:
    """b: latency at 200 requests per second, with 100,000 versions and 10,000 devices."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "lite"
        made += under_load("SQLite", home, f"sqlite:///{home}/store.db", options)
    with tempfile.TemporaryDirectory() as folder, control_store.postgres() as address:
        made += under_load("PostgreSQL", Path(folder) / "pg", address, options, "--store", address)
    return made


def under_load(name: str, home: Path, address: str, options: argparse.Namespace, *more: str) -> list[Result]:
    """Fill a store and measure requests of each kind against it."""
    with running(home, *more) as plane:
        token = plane.token
    control_store.fill(address)
    told: dict[str, list[float]] = {}
    for round_ in range(options.rounds + 1):
        with running(home, *more, token=token) as plane:
            seconds = options.seconds if round_ else WARM_S
            drive(plane, {"health": [("GET", "/health", "")]}, WARM_S)
            drive(plane, requests(), WARM_S)
            found = drive(plane, requests(), seconds)
        if round_:
            for kind, times in found.items():
                told.setdefault(kind, []).append(_percentile(times, 0.99))
                told.setdefault(f"{kind} p50", []).append(_percentile(times, 0.5))
    rows = []
    for kind in told:
        if not kind.endswith(" p50"):
            p99 = statistics.median(told[kind])
            what = f"{kind} on {name}, p99 at {RATE:g}/s"
            words = f"p50 {statistics.median(told[f'{kind} p50']):.2f} ms, p99 {_spread(told[kind], 'ms')}"
            rows.append(Result("b", what, words, p99, "ms", BARS.get(kind)))
    return rows


def requests() -> dict[str, list[tuple[str, str, str]]]:
    """Return requests of each kind: one resource, a change, a page of a list."""
    source, project = random.Random(7), "/v1/projects/default"  # noqa: S311

    def model() -> str:
        return f"{project}/models/model-{source.randrange(control_store.MODELS):03}"

    def version() -> str:
        return f"{model()}/versions/{source.randint(1, control_store.PER_MODEL)}"

    lists = [
        "/v1/devices?limit=50",
        "/v1/nodes?limit=50",
        f"{project}/models?limit=50",
        f"{project}/events?newest=true",
    ]
    return {
        "read": [("GET", version(), "") for _ in range(400)] + [("GET", model(), "") for _ in range(100)],
        "write": [("PATCH", version(), json.dumps({"tags": {"note": str(number)}})) for number in range(500)],
        "list": [("GET", f"{model()}/versions?limit=50", "") for _ in range(50)]
        + [("GET", one, "") for one in lists * 12],
    }


def drive(plane: Plane, kinds: dict[str, list[tuple[str, str, str]]], seconds: float) -> dict[str, list[float]]:
    """Send requests for a while from a process of its own, and return times in ms by kind."""
    host, _, port = plane.address.removeprefix("http://").rpartition(":")
    plan = {"host": host, "port": int(port), "token": plane.token, "rate": RATE, "seconds": seconds, "kinds": kinds}
    command = [sys.executable, str(Path(__file__).with_name("control_load.py"))]
    done = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load failed: {done.stderr[-2000:]}")
    told: dict[str, list[float]] = json.loads(done.stdout)
    if wrong := [kind for kind in told if kind.startswith("failed")]:
        raise SystemExit(f"requests {wrong[0]}")
    return told


def registering(options: argparse.Namespace) -> list[Result]:
    """c: a new version from a model file on disk, beside MLflow's own client and server, in turns."""
    ours, alone, theirs, theirs_alone = [], [], [], []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        made = [control_push.small(folder, f"m{number}") for number in range(options.versions + 2)]
        plane = stack.enter_context(running(folder / "home"))
        client = stack.enter_context(Client(plane.address, plane.token))
        peer = stack.enter_context(control_push.Mlflow(folder))
        for graph, bundle in made:
            start = time.perf_counter()
            version = client.push(bundle, "bench").version
            ours.append(1e3 * (time.perf_counter() - start))
            start = time.perf_counter()
            client.versions.register("bench", version.digest)
            alone.append(1e3 * (time.perf_counter() - start))
            logged, registered = peer.registered(graph)
            theirs.append(1e3 * (logged + registered))
            theirs_alone.append(1e3 * registered)
    # The first ones start what starts with them, on both sides.
    ours, alone, theirs, theirs_alone = (values[2:] for values in (ours, alone, theirs, theirs_alone))
    whole = [b / a for a, b in zip(ours, theirs, strict=True)]
    last = [b / a for a, b in zip(alone, theirs_alone, strict=True)]
    words = "Tilth {}, MLflow {} {}, ratio {}"
    return [
        Result(
            "c",
            "a new version from a file: upload and register, MLflow's time over Tilth's",
            words.format(_spread(ours, "ms"), peer.version, _spread(theirs, "ms"), _spread(whole, "")),
            statistics.median(whole),
            "times",
            10.0,
            at_least=True,
        ),
        Result(
            "c",
            "only the request that registers what is uploaded",
            words.format(_spread(alone, "ms"), peer.version, _spread(theirs_alone, "ms"), _spread(last, "")),
            statistics.median(last),
            "times",
        ),
    ]


def uploading(options: argparse.Namespace) -> list[Result]:
    """d: a bundle with 512 MB of weights, beside what the disk and loopback do with as many bytes, in turns."""
    first, again, share_disk, share_loopback, rate = [], [], [], [], []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        plane = stack.enter_context(running(folder / "home"))
        client = stack.enter_context(Client(plane.address, plane.token))
        for _ in range(options.pushes):
            bundle = control_push.large(folder)
            size = bundle.stat().st_size
            disk, loopback = control_push.disk_s(folder, size), control_push.loopback_s(size)
            start = time.perf_counter()
            client.push(bundle, "large")
            first.append(time.perf_counter() - start)
            start = time.perf_counter()
            client.push(bundle, "large")
            again.append(time.perf_counter() - start)
            disk = (disk + control_push.disk_s(folder, size)) / 2
            loopback = (loopback + control_push.loopback_s(size)) / 2
            rate.append(size / 1e6 / first[-1])
            share_disk.append(100 * disk / first[-1])
            share_loopback.append(100 * loopback / first[-1])
    words = f"{_spread(first, 's')}, {_spread(rate, 'MB/s')}; of loopback {_spread(share_loopback, '%')}"
    what = "first push of 512 MB, share of the speed of the disk (write and fsync)"
    return [
        Result("d", what, words, statistics.median(share_disk), "%", 80.0, at_least=True),
        Result("d", "second push of the same weights, longest", _spread(again, "s"), max(again), "s", 1.0),
    ]


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _spread(values: list[float], unit: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.3g} {unit} ({low:.3g} to {high:.3g})"


PARTS: dict[str, Callable[[argparse.Namespace], list[Result]]] = {
    "a": starting,
    "b": loaded,
    "c": registering,
    "d": uploading,
}


def table(results: list[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| part | what | measured | figure | bar | met |", "|---|---|--:|--:|--:|---|"]
    for r in results:
        sign = "at least" if r.at_least else "at most"
        bar = "-" if r.bar is None else f"{sign} {r.bar:g} {r.unit}".strip()
        figure = "-" if r.figure is None else f"{r.figure:.3g} {r.unit}".strip()
        lines.append(f"| {r.part} | {r.what} | {r.told} | {figure} | {bar} | {r.met()} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, such as a,b")
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of part b")
    parser.add_argument("--seconds", type=float, default=20, help="per round of part b")
    parser.add_argument("--versions", type=int, default=30, help="of part c")
    parser.add_argument("--pushes", type=int, default=5, help="of part d")
    parser.add_argument("--json", type=Path, default=Path("out/control.json"))
    parser.add_argument("--docs", type=Path, help="write the table into this Markdown file, between its markers")
    options = parser.parse_args()
    if shutil.which("tilth") is None and not Path(sys.executable).with_name("tilth").exists():
        parser.error("tilth is not installed here")
    results: list[Result] = []
    for name in options.only.split(","):
        print(PARTS[name].__doc__, file=sys.stderr, flush=True)
        results += PARTS[name](options)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=2), encoding="utf-8")
    arguments = " ".join(sys.argv[1:])
    head = f"Measured on {machine()}, {time.strftime('%Y-%m-%d')}, with `python benchmarks/control.py {arguments}`."
    text = f"{head}\n\n{table(results)}\n"
    print(text)
    if options.docs:
        write_section(options.docs, "control", text)


if __name__ == "__main__":
    main()
