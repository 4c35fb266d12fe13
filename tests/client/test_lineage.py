"""What a bundle notes of its origin: told when it is sound, left out when it is not, never an obstacle."""

import json

from tilth.client.lineage import noted
from tilth.client.shapes.model import Lineage
from tilth.client.tracking import notes
from tilth.ports.tracker import TrackedModel, TrackedRun


def test_what_an_import_notes_is_what_a_push_tells() -> None:
    run = TrackedRun(
        "r" * 32, "good", "p" * 32, "git:9f", ("train@1", "test@2"), {"C": "1"}, {"a": 0.5, "b": float("nan")}
    )
    made = notes("mlflow", TrackedModel(run, "m", "onnx", (), "model.onnx", False))
    assert noted(made) == Lineage(run=f"mlflow:{'r' * 32}", data=["train@1", "test@2"], code="git:9f")
    assert json.loads(made["run.metrics"]) == {"a": 0.5} and made["run.parent"] == f"mlflow:{'p' * 32}"


def test_a_run_that_tells_little_leaves_little() -> None:
    made = notes("mlflow", TrackedModel(TrackedRun("r"), "m", "onnx", (), "model.onnx", False))
    assert made == {"lineage.run": "mlflow:r", "run.model": "m", "run.flavour": "onnx"}


def test_notes_that_are_no_lineage_are_left_out_and_stop_nothing() -> None:
    for data in ("{", "7", '"text"', "[1]", json.dumps(["x"] * 65), json.dumps(["x" * 600])):
        assert noted({"lineage.run": "mlflow:r", "lineage.data": data}) == Lineage(run="mlflow:r")
    assert noted({"lineage.run": "x" * 600, "lineage.code": "git:1"}) == Lineage(code="git:1")
    assert noted({}) == Lineage()


def test_a_note_without_end_is_not_made() -> None:
    run = TrackedRun("r", params={str(number): "x" * 200 for number in range(64)})
    assert "run.params" not in notes("mlflow", TrackedModel(run, "m", "onnx", (), "model.onnx", False))
