import dataclasses
import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  only where torch is

from tilth.core.errors import InvalidError, MissingError, UnsupportedError  # noqa: E402
from tilth.plugins.frontends.torch import TorchFrontend  # noqa: E402

FRONTEND = TorchFrontend()
ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


class Mixed(nn.Module):
    """Nested answers, an optional argument, and parts that differ in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any, extra: Any = None, *, scale: float = 1.0) -> Any:
        hidden = self.drop(self.norm(torch.relu(self.first(x)))) * scale
        if extra is not None:
            hidden = hidden + extra
        return {"hidden": hidden, "pair": (hidden.sum(1), None, [hidden * 2])}


@dataclasses.dataclass
class Answer:
    logits: Any
    loss: Any = None


class Records(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return Answer(logits=self.last(x))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 6, batch_first=True)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, tokens: Any) -> Any:
        return self.layer(self.embed(tokens)).mean(1)


class Frozen(nn.Module):
    """Reads the batch size in Python, which fixes it."""

    def forward(self, x: Any) -> Any:
        return x * float(int(x.shape[0]))


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def _shape(item: Any) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]


def _conv() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


IMAGES = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ROWS),
    "convolution, one row": (_conv, IMAGES),
    "lstm": (Recurrent, np.random.default_rng(2).normal(size=(2, 5, 4)).astype(np.float32)),
    "attention over tokens": (Attention, np.random.default_rng(3).integers(0, 20, (2, 7))),
}


@pytest.mark.parametrize("case", MODULES)
def test_a_module_agrees_with_a_dynamic_batch(case: str, disagreement: Any) -> None:
    make, sample = MODULES[case]
    capture = FRONTEND.capture(make(), sample)
    assert capture.batched
    assert _shape(capture.model.graph.input[0])[0] == "batch" == _shape(capture.model.graph.output[0])[0]
    assert {item.domain: item.version for item in capture.model.opset_import}[""] == 18
    assert disagreement(capture) < 1e-4


def test_names_come_from_arguments_and_from_keys_of_the_answer(disagreement: Any) -> None:
    sample = {"x": ROWS, "extra": torch.ones(3, 8), "scale": 2.0}
    capture = FRONTEND.capture(Mixed(), sample)
    graph = capture.model.graph
    assert [item.name for item in graph.input] == ["x", "extra"]
    assert [item.name for item in graph.output] == ["hidden", "pair_0", "pair_2_0"]
    assert any("`scale` is fixed to 2.0" in note for note in capture.notes)
    assert disagreement(capture) < 1e-4


def test_fields_of_a_dataclass_name_the_outputs(disagreement: Any) -> None:
    capture = FRONTEND.capture(Records(), ROWS)
    assert [item.name for item in capture.model.graph.output] == ["logits"]
    assert disagreement(capture) < 1e-4


def test_the_mode_of_every_part_is_as_before() -> None:
    module = Mixed()
    module.train()
    module.norm.eval()
    before = {name: part.training for name, part in module.named_modules()}
    statistics = module.norm.running_mean.clone()
    capture = FRONTEND.capture(module, (ROWS,))
    first, again = (capture.run({"x": ROWS})["hidden"] for _ in range(2))
    assert np.array_equal(first, again), "dropout was on"
    assert {name: part.training for name, part in module.named_modules()} == before
    assert torch.equal(module.norm.running_mean, statistics)


def test_a_batch_that_python_reads_is_fixed_and_said_so(disagreement: Any) -> None:
    capture = FRONTEND.capture(Frozen(), ROWS)
    assert not capture.batched
    assert _shape(capture.model.graph.input[0]) == [3, 4]
    assert any("fixed" in note for note in capture.notes)
    assert disagreement(capture, batches=()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_said_so(dtype: Any, disagreement: Any) -> None:
    module = nn.Linear(4, 2).to(dtype)
    capture = FRONTEND.capture(module, torch.from_numpy(ROWS).to(dtype))
    assert any("computed in float32" in note for note in capture.notes)
    assert capture.model.graph.input[0].type.tensor_type.elem_type == 1
    assert module.weight.dtype is dtype
    assert disagreement(capture) < 1e-4


def test_float64_samples_are_taken_as_float32() -> None:
    capture = FRONTEND.capture(nn.Linear(4, 2), ROWS.astype(np.float64))
    assert capture.sample is not None
    assert capture.sample["input"].dtype == np.float32  # type: ignore[union-attr]


def test_control_flow_on_values_is_refused_in_the_exporters_words() -> None:
    with pytest.raises(UnsupportedError) as caught:
        FRONTEND.capture(Branching(), ROWS)
    assert caught.value.why
    assert "import the `.onnx`" in caught.value.hint


def test_torchscript_is_refused() -> None:
    with pytest.warns(DeprecationWarning):
        module = torch.jit.trace(nn.Linear(4, 2), torch.zeros(1, 4))
    assert FRONTEND.accepts(module)
    with pytest.raises(UnsupportedError, match="TorchScript"):
        FRONTEND.capture(module, ROWS)


@pytest.mark.parametrize(
    "sample",
    [None, ROWS[:, :3], np.array([["a"] * 4]), {"z": ROWS}, (ROWS, ROWS), ROWS.astype(np.int64), {}],
)
def test_a_sample_that_does_not_fit_is_refused(sample: Any) -> None:
    with pytest.raises(InvalidError):
        FRONTEND.capture(nn.Linear(4, 2), sample)


def test_the_exporter_is_quiet_and_logging_is_as_before() -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        FRONTEND.capture(nn.Linear(4, 2), ROWS)
    assert said.getvalue() == ""
    assert logging.root.manager.disable == 0


def test_the_graph_names_no_file_of_this_machine() -> None:
    data = FRONTEND.capture(Mixed(), ROWS).model.SerializeToString()
    assert b".py" not in data
    assert str(Path.cwd()).encode() not in data


class Frugal(TorchFrontend):
    most_inline_bytes = 16


def test_weights_beyond_the_limit_go_into_files() -> None:
    capture = Frugal().capture(nn.Linear(400, 30), np.ones((2, 400), np.float32))
    assert capture.weights_dir is not None
    locations = [item.external_data[0].value for item in capture.model.graph.initializer if item.external_data]
    assert locations
    assert all((capture.weights_dir / location).is_file() for location in locations)


def _program(path: Path, *, dynamic: bool = True) -> Path:
    dims = ({0: torch.export.Dim("rows")},) if dynamic else None
    program = torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),), dynamic_shapes=dims)
    torch.export.save(program, path)
    return path


def test_an_exported_file_agrees_and_brings_its_own_sample(tmp_path: Path, disagreement: Any) -> None:
    path = _program(tmp_path / "m.pt2")
    assert FRONTEND.accepts(path)
    assert FRONTEND.accepts(str(path))
    capture = FRONTEND.capture(path, None)
    assert capture.batched
    assert disagreement(capture, {"input": ROWS}) < 1e-4


def test_an_exported_program_with_a_fixed_batch_stays_fixed(tmp_path: Path, disagreement: Any) -> None:
    program = torch.export.load(_program(tmp_path / "m.pt2", dynamic=False))
    capture = FRONTEND.capture(program, ROWS[:2])
    assert not capture.batched
    assert disagreement(capture, batches=()) < 1e-4
    with pytest.raises(InvalidError):
        FRONTEND.capture(program, ROWS[:, :3])


def test_a_file_that_is_no_program_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        FRONTEND.capture(tmp_path / "none.pt2", None)
    (tmp_path / "bad.pt2").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InvalidError, match="not an exported program"):
        FRONTEND.capture(tmp_path / "bad.pt2", None)


def test_a_model_of_transformers_with_its_own_output_class(disagreement: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    module = transformers.BertForSequenceClassification(config)
    tokens = np.random.default_rng(4).integers(0, 50, (2, 6))
    capture = FRONTEND.capture(module, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
    assert [item.name for item in capture.model.graph.output] == ["logits"]
    assert capture.batched
    assert disagreement(capture) < 1e-4
