"""Is a Tilth build as fast as the best engine default, and how much faster than onnxruntime's, at the same answers?

For every model of the zoo: import, build at fp32, build again with a stated tolerance, then time five contenders side
by side, each in its own process, block by block: onnxruntime's default, openvino's default at fp32 and as it comes
(which is bf16 where the chip can), Tilth's fp32 build and Tilth's build under the tolerance. Processes that are not
timed are stopped, since their threads would spin on; a block during which the machine did not give all of its cores is
run again, up to a time that is stated, and how many were not is told. Prints tables and writes JSON; `--docs` writes
docs/reference/performance.md.
"""

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import zoo
from memory import PeakMemory

from tilth.bridge.measure.cores import Cores

HERE = Path(__file__).resolve().parent
TILTH = [sys.executable, "-m", "tilth"]


@dataclass
class Row:
    """What was measured of one model."""

    model: str
    weights_mb: float
    ort_ms: float = 0.0
    openvino_ms: float = math.nan
    openvino_own_ms: float = math.nan
    fp32: str = ""
    fp32_ms: float = 0.0
    fp32_error: float = 0.0
    fp32_speedup: list[float] = field(default_factory=list)
    fp32_to_best: list[float] = field(default_factory=list)
    low: str = ""
    low_ms: float = 0.0
    low_rms: float = 0.0
    low_decisions: float = 0.0
    low_speedup: list[float] = field(default_factory=list)
    low_to_best: list[float] = field(default_factory=list)
    search_s: float = 0.0
    low_search_s: float = 0.0
    cached_s: float = 0.0
    peak_mb: float = 0.0
    low_peak_mb: float = 0.0
    memory_limit_mb: float = 0.0
    blocks: int = 0
    clear_blocks: int = 0


class Contender:
    """A process of `contender.py`."""

    def __init__(self, kind: str, model: Path, feeds: Path) -> None:
        command = [sys.executable, str(HERE / "contender.py"), kind, str(model), str(feeds)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.error = json.loads(self._process.stdout.readline()).get("error", "")
        self._process.send_signal(signal.SIGSTOP)

    def block(self, seconds: float) -> float:
        """Return the median call of a block, in milliseconds."""
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        return statistics.median(json.loads(answer)["ns"]) / 1e6

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def tilth(*arguments: str) -> tuple[dict, float, float]:
    """Run a command; return its JSON, its seconds and the peak MB of its process tree."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*TILTH, *arguments, "--json"], stdout=subprocess.PIPE, stderr=errors)
        peak = PeakMemory(process.pid).start()
        printed, _ = process.communicate()
        peak_mb = peak.stop() / 1e6
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"tilth {' '.join(arguments)} failed: {printed.decode()}{errors.read().decode()}")
    return json.loads(printed), time.perf_counter() - start, peak_mb


def measure(model: zoo.ZooModel, folder: Path, options: argparse.Namespace, cores: Cores) -> Row:
    """Import, build twice, and time the contenders side by side."""
    weights_mb = model.path.stat().st_size / 1e6
    row = Row(model.name, weights_mb, memory_limit_mb=3 * weights_mb + 500)
    sample, feeds = folder / "sample.npz", folder / "feeds.npz"
    np.savez(sample, **model.calibration)
    np.savez(feeds, **model.sample)
    bundle, low = folder / f"{model.name}.tilth", folder / f"{model.name}-low.tilth"
    tilth("import", str(model.path), "--sample", str(sample), "-o", str(bundle))
    budget = ("--budget", options.budget)
    made, row.search_s, row.peak_mb = tilth("build", str(bundle), *budget)
    _, row.cached_s, _ = tilth("build", str(bundle), *budget)
    row.fp32, _, row.fp32_error, _ = described(made)
    made, row.low_search_s, row.low_peak_mb = tilth(
        "build", str(bundle), "-o", str(low), "--tolerance", options.tolerance, "--calibrate", str(sample), *budget
    )
    row.low, row.low_rms, _, row.low_decisions = described(made)
    side_by_side(row, model, bundle, low, feeds, options, cores)
    return row


def described(made: dict) -> tuple[str, float, float, float]:
    """Return the chosen build's label, rms error, largest relative error and decisions."""
    chosen = made["choice"]["build"]
    index = [certificate["build"] for certificate in made["certificates"]].index(chosen)
    build, agreement = made["builds"][index], made["certificates"][index]["agreement"]
    settings = " ".join(f"{key}={value}" for key, value in sorted(build.get("settings", {}).items()))
    label = " ".join(filter(None, [build["engine"], build["precision"], build.get("recipe", ""), settings]))
    return label, agreement["rms_rel"], agreement["max_rel"], agreement["decisions"]


def side_by_side(
    row: Row, model: zoo.ZooModel, bundle: Path, low: Path, feeds: Path, options: argparse.Namespace, cores: Cores
) -> None:
    """Time all contenders in turn and fill in the figures."""
    contenders = {
        "ort": Contender("onnxruntime", model.path, feeds),
        "openvino": Contender("openvino-f32", model.path, feeds),
        "openvino own": Contender("openvino", model.path, feeds),
        "fp32": Contender("tilth", bundle, feeds),
        "low": Contender("tilth", low, feeds),
    }
    try:
        for name, contender in contenders.items():
            if contender.error and not name.startswith("openvino"):
                raise SystemExit(f"{model.name}: {name} does not load: {contender.error}")
        names = [name for name, contender in contenders.items() if not contender.error]
        blocks: dict[str, list[float]] = {name: [] for name in names}
        patient = time.monotonic() + options.patience
        for cycle in range(options.cycles):
            for name in names[cycle % len(names) :] + names[: cycle % len(names)]:
                taken, clear = cores.with_all(lambda at=contenders[name]: at.block(options.block), patient)
                blocks[name].append(taken)
                row.blocks, row.clear_blocks = row.blocks + 1, row.clear_blocks + clear
    finally:
        for contender in contenders.values():
            contender.close()
    fill(row, blocks)


def fill(row: Row, blocks: dict[str, list[float]]) -> None:
    """Turn block medians into figures."""
    middle = {name: statistics.median(values) for name, values in blocks.items()}
    row.ort_ms, row.fp32_ms, row.low_ms = middle["ort"], middle["fp32"], middle["low"]
    row.openvino_ms = middle.get("openvino", math.nan)
    row.openvino_own_ms = middle.get("openvino own", math.nan)
    row.fp32_speedup = quartiles([a / b for a, b in zip(blocks["ort"], blocks["fp32"], strict=True)])
    row.low_speedup = quartiles([a / b for a, b in zip(blocks["ort"], blocks["low"], strict=True)])
    row.fp32_to_best = to_best(blocks, "fp32", ["ort", "openvino"])
    row.low_to_best = to_best(blocks, "low", ["ort", "openvino own"])


def to_best(blocks: dict[str, list[float]], own: str, defaults: list[str]) -> list[float]:
    """Return the quartiles of `own`'s time over that of the fastest of `defaults`."""
    best = min((name for name in defaults if name in blocks), key=lambda name: statistics.median(blocks[name]))
    return quartiles([b / a for a, b in zip(blocks[best], blocks[own], strict=True)])


def quartiles(values: list[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return [float(np.quantile(values, share)) for share in (0.25, 0.5, 0.75)]


def table(rows: list[Row], options: argparse.Namespace) -> str:
    """Return the figures as a Markdown table with the bars below."""
    lines = [
        "| model | onnxruntime ms | openvino f32 ms | openvino ms | Tilth fp32 ms | speed-up | to best default "
        "| fp32 error | Tilth low ms | speed-up | to best default | rms error | same |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        lines.append(
            f"| {r.model} | {r.ort_ms:.3g} | {_number(r.openvino_ms)} | {_number(r.openvino_own_ms)} "
            f"| {r.fp32_ms:.3g} | {_spread(r.fp32_speedup)} | {_spread(r.fp32_to_best)} | {r.fp32_error:.1e} "
            f"| {r.low_ms:.3g} | {_spread(r.low_speedup)} | {_spread(r.low_to_best)} | {r.low_rms:.1e} "
            f"| {r.low_decisions:.1%} |"
        )
    lines += [
        "",
        "| model | build at fp32 | build under the tolerance | search s | cached s | peak MB (limit) |",
        "|---|---|---|--:|--:|--:|",
    ]
    for r in rows:
        lines.append(
            f"| {r.model} | {r.fp32} | {r.low} | {max(r.search_s, r.low_search_s):.0f} | {r.cached_s:.2f} "
            f"| {max(r.peak_mb, r.low_peak_mb):.0f} ({r.memory_limit_mb:.0f}) |"
        )
    fp32, low = _mean([r.fp32_speedup[1] for r in rows]), _mean([r.low_speedup[1] for r in rows])
    worst = max(rows, key=lambda r: r.fp32_to_best[1])
    worst_low = max(rows, key=lambda r: r.low_to_best[1])
    lines += [
        "",
        f"- geometric mean over {len(rows)} models at fp32: **{fp32:.2f}** times onnxruntime's default (bar: 1.2)",
        f"- with lower precision under a tolerance of {options.tolerance}: **{low:.2f}** times (bar: 2.5)",
        f"- slowest against the best default at fp32: {worst.model}, {worst.fp32_to_best[1]:.3f} (bar: 1.03), under "
        f"the tolerance: {worst_low.model}, {worst_low.low_to_best[1]:.3f}",
        f"- longest search {max(max(r.search_s, r.low_search_s) for r in rows):.0f} s (bar: 60), longest from cache "
        f"{max(r.cached_s for r in rows):.2f} s (bar: 1)",
        f"- over the memory limit: {', '.join(_over(rows)) or 'none'}",
        f"- blocks for which the machine gave all of its cores: {sum(r.clear_blocks for r in rows)} of "
        f"{sum(r.blocks for r in rows)}; short of that: {', '.join(_unclear(rows)) or 'none'}",
    ]
    return "\n".join(lines)


def _over(rows: list[Row]) -> list[str]:
    return [r.model for r in rows if max(r.peak_mb, r.low_peak_mb) > r.memory_limit_mb]


def _unclear(rows: list[Row]) -> list[str]:
    return [f"{r.model} ({r.blocks - r.clear_blocks})" for r in rows if r.clear_blocks < r.blocks]


def _mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    return f"{values[1]:.2f} ({values[0]:.2f} to {values[2]:.2f})"


def machine() -> str:
    """Return the machine in words."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
        if line.startswith("model name")
    ]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of models; all when none is given")
    parser.add_argument("--tolerance", default="5%")
    parser.add_argument("--budget", default="50s")
    parser.add_argument("--cycles", type=int, default=15)
    parser.add_argument("--block", type=float, default=0.25, help="seconds per block")
    parser.add_argument("--patience", type=float, default=60.0, help="most seconds a model to wait for all cores")
    parser.add_argument("--json", type=Path, default=Path("out/bridge.json"))
    parser.add_argument("--docs", type=Path, help="write the table into this Markdown file, between its markers")
    options = parser.parse_args()
    rows: list[Row] = []
    cores = Cores(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TILTH_CACHE"] = str(Path(folder) / "cache")
        found = {model.name: model for model in zoo.models(set(options.models) or None)}
        for model in (found[name] for name in options.models or found):
            print(f"{model.name} ...", file=sys.stderr, flush=True)
            inside = Path(folder) / model.name
            inside.mkdir()
            rows.append(measure(model, inside, options, cores))
            print(f"  {rows[-1].fp32} | {rows[-1].low}", file=sys.stderr, flush=True)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps([asdict(r) for r in rows], indent=2), encoding="utf-8")
    date = time.strftime("%Y-%m-%d")
    head = f"Measured on {machine()}, {date}, with `python benchmarks/bridge.py {' '.join(sys.argv[1:])}`."
    text = f"{head}\n\n{table(rows, options)}\n"
    print(text)
    if options.docs:
        write_section(options.docs, "bridge", text)


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a section of a document."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8")
    head, rest = old.split(begin, 1)
    path.write_text(head + begin + text + end + rest.split(end, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
