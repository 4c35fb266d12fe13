"""Capture: a graph is kept only with proof that it answers like its source."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx import helper as h

from tilth import wiring
from tilth.bridge.agreement import Tolerance
from tilth.bridge.arrays import decode_array
from tilth.bridge.capture import Captured, Terms, capture
from tilth.bridge.capture_child import frontend_for, loader
from tilth.bridge.import_apart import as_error
from tilth.bridge.measure.worker import WorkerFailed
from tilth.core.blob import bytes_of
from tilth.core.build import Refusal, Verdict
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, RefusedError, TilthError, UnsupportedError
from tilth.ports.arrays import Values
from tilth.ports.frontend import Capture

DEVICE = Device("cpu:0", "cpu-x86_64", "a chip")
X = np.arange(1, 9, dtype=np.float32).reshape(4, 2)


def doubled(batch: Any = "batch", more: Any = 2, dtype: int = TensorProto.FLOAT) -> Any:
    edges = [h.make_tensor_value_info(name, dtype, [batch, more]) for name in "xy"]
    graph = h.make_graph([h.make_node("Add", ["x", "x"], ["y"])], "g", edges[:1], edges[1:])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)


def double(values: Values) -> Values:
    return {"y": np.asarray(values["x"]) * 2}


class Framework:
    """A frontend whose source is a function; `sample` is handed through."""

    name = "framework"

    def __init__(self, run: Callable[[Values], Values] = double, model: Any = None, **more: Any) -> None:
        self._taken = Capture(model=model or doubled(), run=run, framework="framework", version="1.0", **more)
        self.why: list[Refusal] = []

    def version(self) -> str:
        return "1.0"

    def accepts(self, model: object) -> bool:
        return model == "mine"

    def refusals(self, model: object) -> list[Refusal]:
        return self.why

    def capture(self, model: object, sample: Any) -> Capture:
        return replace(self._taken, sample=sample)


def captured(frontend: Framework, sample: Any = None, **terms: Any) -> Captured:
    load = loader(wiring.engine("ort"), DEVICE)
    return capture(frontend, "mine", sample, name="m", version="0.1", load=load, terms=Terms(**terms))


def golden(made: Captured, number: int = 0) -> Any:
    case = made.manifest.golden.cases[number]
    record: Any = case.outputs["y"]
    return decode_array(record, bytes_of(made.blobs[record.blob]))


def test_golden_outputs_are_those_of_the_source_at_two_batch_sizes() -> None:
    made = captured(Framework(), {"x": X})
    assert made.manifest.golden.origin == "given" and len(made.manifest.golden.cases) == 2
    assert np.array_equal(golden(made), X * 2) and np.array_equal(golden(made, 1), X[:1] * 2)
    assert made.manifest.signature.outputs[0].shape == ("batch", 2) and made.agreement.max_rel == 0
    assert made.manifest.blobs.keys() == made.blobs.keys()
    assert len(captured(Framework(), {"x": X[:1]}).manifest.golden.cases) == 2


def test_without_a_sample_one_is_made_and_it_is_said() -> None:
    made = captured(Framework())
    assert made.manifest.golden.origin == "made"
    assert "were made from the signature" in made.manifest.source.notes[0]
    again = captured(Framework())
    assert again.manifest.golden == made.manifest.golden, "and it is the same every time"


def test_a_graph_that_answers_otherwise_than_its_source_is_refused() -> None:
    with pytest.raises(RefusedError, match="answers differently from the source") as caught:
        captured(Framework(lambda v: {"y": np.asarray(v["x"]) * 2.02}), {"x": X})
    assert "relative error" in caught.value.why


def test_a_tolerance_accepts_a_difference_of_that_size_and_no_larger() -> None:
    near = Framework(lambda v: {"y": np.asarray(v["x"]) * 2.01})
    assert 1e-4 < captured(near, {"x": X}, tolerance=Tolerance(rms=0.01)).agreement.max_rel < 0.01
    with pytest.raises(RefusedError):
        captured(near, {"x": X}, tolerance=Tolerance(rms=0.001))


def test_a_graph_that_is_right_at_one_batch_size_alone_is_refused() -> None:
    with pytest.raises(RefusedError):
        captured(Framework(lambda v: {"y": np.asarray(v["x"]) * (2 if len(v["x"]) > 1 else 3)}), {"x": X})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_golden_outputs_that_are_no_numbers_are_refused_until_accepted(value: float) -> None:
    sample = {"x": np.where(X == 3, np.float32(value), X)}
    with pytest.raises(InvalidError, match="the golden output `y` holds NaN or an infinity") as caught:
        captured(Framework(), sample)
    assert "for this sample" in caught.value.why and "--nonfinite" in caught.value.hint
    made = captured(Framework(), sample, nonfinite=True)
    assert np.array_equal(golden(made), sample["x"] * 2, equal_nan=True)


def test_a_source_that_takes_one_batch_size_fixes_it_and_says_so() -> None:
    def picky(values: Values) -> Values:
        if len(values["x"]) != 4:  # type: ignore[arg-type]
            raise ValueError("four rows or none")
        return double(values)

    made = captured(Framework(picky), {"x": X})
    assert not made.manifest.signature.dynamic_batch
    assert made.manifest.signature.inputs[0].shape == made.manifest.signature.outputs[0].shape == (4, 2)
    assert any("fixed at 4" in note and "four rows or none" in note for note in made.manifest.source.notes)
    assert len(made.manifest.golden.cases) == 1


def test_a_graph_of_a_fixed_batch_is_proven_as_it_is() -> None:
    made = captured(Framework(model=doubled(batch=4), batched=False), {"x": X})
    assert made.manifest.signature.inputs[0].shape == (4, 2) and len(made.manifest.golden.cases) == 1


def test_a_large_sample_is_cut_to_what_every_candidate_can_run() -> None:
    made = captured(Framework(), {"x": np.ones((5000, 2), np.float32)})
    assert made.manifest.golden.cases[0].inputs["x"].shape == (256, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        ({"x": X[:, :1]}, "has shape"),
        ({"x": X.astype(np.float64)}, "has dtype"),
        ({"z": X}, "names"),
        ({"x": X[:0]}, "no rows"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(sample: Any, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        captured(Framework(), sample)


def test_recorded_outputs_win_over_what_the_source_gives_here() -> None:
    made = captured(Framework(recorded={"y": X * 2 + 1e-5}), {"x": X})
    assert np.array_equal(golden(made), X * 2 + np.float32(1e-5)) and made.agreement.max_abs > 0
    with pytest.raises(RefusedError):
        captured(Framework(recorded={"y": X * 3}), {"x": X})
    with pytest.raises(InvalidError, match="recorded output `y` has shape"):
        captured(Framework(recorded={"y": X[:2]}), {"x": X})


def test_a_refusal_of_the_frontend_is_told_in_full() -> None:
    frontend = Framework()
    frontend.why = [Refusal(Verdict.TODO, "no trees"), Refusal(Verdict.NEVER, "no magic")]
    with pytest.raises(UnsupportedError, match="cannot capture this model") as caught:
        captured(frontend)
    assert caught.value.why == "no trees; no magic"


def test_a_made_sample_that_nothing_runs_asks_for_a_real_one() -> None:
    def never(values: Values) -> Values:
        raise RuntimeError("needs real data")

    with pytest.raises(InvalidError, match="no sample made from the signature runs") as caught:
        captured(Framework(never))
    assert "needs real data" in caught.value.why and "x: float32[batch, 2]" in caught.value.hint


def test_open_sizes_are_tried_until_one_runs() -> None:
    def wide(values: Values) -> Values:
        assert np.shape(values["x"])[1] >= 64, "too narrow"  # type: ignore[arg-type]
        return double(values)

    made = captured(Framework(wide, model=doubled(more="n")))
    assert made.manifest.golden.cases[0].inputs["x"].shape == (4, 64)  # type: ignore[union-attr]
    assert made.manifest.signature.outputs[0].shape == ("batch", "n")


def test_the_first_frontend_that_accepts_takes_the_model() -> None:
    one, other = Framework(), Framework()
    assert frontend_for("mine", [one, other]) is one
    with pytest.raises(UnsupportedError, match="no frontend takes a `builtins.int`") as caught:
        frontend_for(3, [one])
    assert caught.value.why == "frontends: framework"
    with pytest.raises(MissingError, match="there is no file"):
        frontend_for(Path("/nowhere/m.onnx"), [one])


@pytest.mark.parametrize("kind", TilthError.__subclasses__())
def test_the_error_of_a_child_keeps_its_class(kind: type[TilthError]) -> None:
    found = as_error(WorkerFailed("x", error=kind("what", why="why", hint="hint").as_json()))
    assert type(found) is kind and (found.what, found.why, found.hint) == ("what", "why", "hint")


@pytest.mark.parametrize("name", ["ClassVar", "TilthError", "__doc__", "SystemExit", ""])
def test_a_child_cannot_choose_a_class_that_is_none_of_ours(name: str) -> None:
    found = as_error(WorkerFailed("x", error={"error": name, "what": "w", "why": "", "hint": ""}))
    assert type(found) is InvalidError


def test_a_child_that_died_is_told_with_its_last_line() -> None:
    found = as_error(WorkerFailed("its process was ended by SIGSEGV", "first\nlast line"))
    assert isinstance(found, InvalidError) and found.why.endswith("it last said: last line")
