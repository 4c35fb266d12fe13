"""The measuring child, as a real process: what an engine does wrong is answered, and what it does is measured."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_engine import COMMAND, DEVICE

from tilth.bridge.measure.worker import Worker, WorkerFailed, start
from tilth.bridge.value_file import read_values, write_values
from tilth.core.build import Build, Precision
from tilth.core.record import to_json

X = np.arange(12, dtype=np.float32).reshape(6, 2)


def load(worker: Worker, **settings: Any) -> Any:
    build = Build("g", DEVICE.target, "faulty", Precision.FP32, settings=settings)
    return worker.call("load", 30, model="model.onnx", build=to_json(build), device=to_json(DEVICE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("child")
    write_values(made / "in.npz", {"x": X})
    return made


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Worker]:
    """One child for all tests that do not end it; each loads its own build."""
    made = start(COMMAND, folder / "log", 1 << 30)
    yield made
    made.close()


def run(worker: Worker, folder: Path, inputs: str = "in.npz") -> Any:
    out = folder / "out.npz"
    worker.call("run", 30, inputs=str(folder / inputs), outputs=str(out))
    return read_values(out)


def test_nothing_runs_before_a_build_is_loaded(folder: Path) -> None:
    made = start(COMMAND, folder / "log2", 1 << 30)
    try:
        for do in ("placement", "run"):
            with pytest.raises(WorkerFailed, match="no build is loaded"):
                made.call(do, 30, **({"inputs": str(folder / "in.npz"), "outputs": "x"} if do == "run" else {}))
    finally:
        made.close()


def test_a_build_is_loaded_run_and_its_figures_told(shared: Worker, folder: Path) -> None:
    told = load(shared, mib=50)
    assert told["version"] == "1.0" and told["load_ms"] > 0 and told["memory_bytes"] > 40 << 20
    assert np.array_equal(run(shared, folder)["y"], X * 2)
    memory = shared.call("memory", 30)
    assert memory["peak_bytes"] > memory["grown_bytes"] > 40 << 20
    assert shared.call("placement", 30)["nodes"] == {"cpu": 2}


def test_calls_are_timed_one_by_one(shared: Worker, folder: Path) -> None:
    load(shared, delay_us=2000)
    taken = shared.call("time", 30, inputs=str(folder / "in.npz"), seconds=0.1, most=2000)["ns"]
    assert 2 <= len(taken) <= 60 and min(taken) >= 2_000_000
    once = shared.call("time", 30, inputs=str(folder / "in.npz"), seconds=0.0, most=1)["ns"]
    assert len(once) == 1
    load(shared)
    assert len(shared.call("time", 30, inputs=str(folder / "in.npz"), seconds=0.2, most=50)["ns"]) == 50


@pytest.mark.parametrize(("fault", "told"), [("refuse", "the engine refuses: it is Tuesday"), ("raise", "by zero")])
@pytest.mark.parametrize("when", ["load", 1, "placement"])
def test_what_an_engine_raises_is_answered_and_the_child_goes_on(
    shared: Worker, folder: Path, fault: str, told: str, when: Any
) -> None:
    with pytest.raises(WorkerFailed) as caught:
        load(shared, fault=fault, when=when)
        shared.call("placement", 30)
        run(shared, folder)
    assert str(caught.value) == told and caught.value.error is not None
    load(shared)
    assert np.array_equal(run(shared, folder)["y"], X * 2)


@pytest.mark.parametrize(
    ("do", "arguments"),
    [("dance", {}), ("load", {}), ("load", {"model": 1, "build": 2, "device": 3}), ("time", {"x": 1})],
)
def test_a_command_that_makes_no_sense_is_answered(shared: Worker, do: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(WorkerFailed) as caught:
        shared.call(do, 30, **arguments)
    assert caught.value.error is not None


def test_a_file_that_is_not_there_is_answered(shared: Worker, folder: Path) -> None:
    load(shared)
    with pytest.raises(WorkerFailed, match="there is no file"):
        run(shared, folder, inputs="nothing.npz")


def test_a_full_disk_is_told_from_a_fault_of_the_engine(shared: Worker, folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        load(shared)
        write_values(folder / "large.npz", {"x": np.ones((10000, 2), np.float32)})
        with pytest.raises(WorkerFailed, match="outputs cannot be kept") as caught:
            shared.call("run", 30, inputs=str(folder / "large.npz"), outputs=str(small / "out.npz"))
        assert caught.value.error is not None and caught.value.error["error"] == "UnavailableError"
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("abort", "ended by SIGABRT"),
        ("segfault", "ended by SIGSEGV"),
        ("exit", "exit code 3"),
        ("hang", "took longer than 1 s"),
        ("leak", "over its limit"),
    ],
)
def test_an_engine_that_ends_or_hangs_its_child_is_told(folder: Path, fault: str, reason: str) -> None:
    made = start(COMMAND, folder / f"{fault}.log", 300 << 20)
    try:
        load(made, fault=fault, when=1)
        with pytest.raises(WorkerFailed, match=reason) as caught:
            made.call("run", 1 if fault == "hang" else 30, inputs=str(folder / "in.npz"), outputs=str(folder / "o.npz"))
        assert fault != "abort" or "std::bad_day" in caught.value.last_words
    finally:
        made.close()
