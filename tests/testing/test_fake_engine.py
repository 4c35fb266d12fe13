"""The fake engine in a measuring child: honest until its settings say otherwise, and then visibly not."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tilth.bridge.agreement import compare
from tilth.bridge.measure.worker import Worker, WorkerFailed, start
from tilth.bridge.value_file import read_values, write_values
from tilth.core.build import Build, Precision
from tilth.core.record import to_json
from tilth.testing.engine_suite import this_cpu
from tilth.testing.models import affine

COMMAND = (sys.executable, "-m", "tilth.testing.fake_engine")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Worker]:
    (tmp_path / "model.onnx").write_bytes(affine().model.SerializeToString())
    write_values(tmp_path / "in.npz", affine().inputs(3))
    worker = start(COMMAND, tmp_path / "log", 512 << 20)
    yield worker
    worker.close()


def loaded(child: Worker, folder: Path, engine: str = "fake", **settings: Any) -> dict[str, Any]:
    build = Build("", this_cpu().target, engine, Precision.FP32, settings=settings)
    model = str(folder / "model.onnx")
    return child.call("load", 30, model=model, build=to_json(build), device=to_json(this_cpu()))


def answered(child: Worker, folder: Path, timeout_s: float = 30) -> dict[str, Any]:
    child.call("run", timeout_s, inputs=str(folder / "in.npz"), outputs=str(folder / "out.npz"))
    return read_values(folder / "out.npz")


def test_without_settings_it_is_honest(child: Worker, tmp_path: Path) -> None:
    assert loaded(child, tmp_path)["version"] == "1.0"
    assert compare([(answered(child, tmp_path), affine().expected(3))]).max_rel < 1e-6
    placement = child.call("placement", 30)
    assert placement["nodes"] == {"numpy": 2}
    assert placement["fallback_share"] == 0.0


def test_wrong_answers_and_false_placement_look_like_any_other(child: Worker, tmp_path: Path) -> None:
    loaded(child, tmp_path, wrong_by=0.5, placement="elsewhere")
    assert compare([(answered(child, tmp_path), affine().expected(3))]).max_abs == pytest.approx(0.5, rel=1e-3)
    assert child.call("placement", 30)["fallback_share"] == 0.5


def test_an_abort_ends_the_child_and_leaves_its_last_words(child: Worker, tmp_path: Path) -> None:
    loaded(child, tmp_path, run="abort", after=1, words="kernel 7 is out of tiles")
    answered(child, tmp_path)
    with pytest.raises(WorkerFailed) as caught:
        answered(child, tmp_path)
    assert "SIGABRT" in caught.value.reason
    assert "kernel 7 is out of tiles" in caught.value.last_words


@pytest.mark.parametrize("stage", ["load", "run"])
def test_a_hang_ends_at_the_time_limit(stage: str, child: Worker, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed) as caught:
        if stage == "run":
            loaded(child, tmp_path, run="hang")
            answered(child, tmp_path, timeout_s=0.5)
        else:
            build = Build("", this_cpu().target, "fake", Precision.FP32, settings={"load": "hang"})
            model = str(tmp_path / "model.onnx")
            child.call("load", 3, model=model, build=to_json(build), device=to_json(this_cpu()))
    assert f"`{stage}` took longer" in caught.value.reason


def test_a_leak_ends_at_the_memory_limit(child: Worker, tmp_path: Path) -> None:
    loaded(child, tmp_path, run="leak")
    with pytest.raises(WorkerFailed) as caught:
        for _ in range(100):
            answered(child, tmp_path)
    assert "over its limit of 512 MiB" in caught.value.reason


@pytest.mark.parametrize("how", ["refuse", "raise"])
def test_an_error_is_answered_and_the_child_lives(how: str, child: Worker, tmp_path: Path) -> None:
    loaded(child, tmp_path, run=how)
    with pytest.raises(WorkerFailed) as caught:
        answered(child, tmp_path)
    assert caught.value.error is not None
    assert caught.value.error["error"] == ("InvalidError" if how == "refuse" else "RuntimeError")
    assert loaded(child, tmp_path)["version"] == "1.0"


def test_another_engine_or_setting_is_not_found(child: Worker, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="there is no engine `ort`"):
        loaded(child, tmp_path, engine="ort")
    with pytest.raises(WorkerFailed, match="it has no setting `turbo`"):
        loaded(child, tmp_path, turbo=True)
