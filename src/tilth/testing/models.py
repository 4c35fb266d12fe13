"""Small models, each with one thing that engines get wrong, and inputs for any number of rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto
from onnx import helper as h
from onnx import numpy_helper as nh
from onnx.reference import ReferenceEvaluator

from tilth.core.signature import BATCH
from tilth.ports.arrays import Array, Values

_OPSET, _IR = 17, 8
_F, _I, _B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclass(frozen=True)
class SmallModel:
    """A model of a few nodes. `inputs` makes values for a number of rows, the same every time."""

    name: str
    model: ModelProto
    inputs: Callable[[int], Values]

    @cached_property
    def output_names(self) -> list[str]:
        """The names of the outputs in graph order."""
        return [output.name for output in self.model.graph.output]

    def expected(self, rows: int) -> Values:
        """Return what onnx's own evaluator answers for `rows` rows."""
        found = ReferenceEvaluator(self.model).run(None, dict(self.inputs(rows)))
        return dict(zip(self.output_names, map(_plain, found), strict=True))


def small_models() -> list[SmallModel]:
    """Return every small model, the plainest first; `affine` is one that every engine takes."""
    makers = (affine, perceptron, convolution, half, texts, whole_numbers, symbols, scalars, branch, loop)
    return [make() for make in (*makers, passed_on, pieces, maybe, found_by_value)]


def affine(name: str = "affine", scale: float = 1.0, inputs: int = 4, outputs: int = 3) -> SmallModel:
    """Return `y = x @ w + b`; weights of another `scale` give other answers to the same inputs."""
    weights = [_weight("w", (inputs, outputs), scale), _weight("b", (outputs,), scale)]
    nodes = [h.make_node("MatMul", ["x", "w"], ["p"]), h.make_node("Add", ["p", "b"], ["y"])]
    model = _model(nodes, [_info("x", _F, BATCH, inputs)], [_info("y", _F, BATCH, outputs)], weights)
    return SmallModel(name, model, lambda rows: {"x": _floats(rows, inputs)})


def perceptron() -> SmallModel:
    """Return two layers with two outputs whose names are not in alphabetical order."""
    weights = [_weight("w1", (8, 64)), _weight("b1", (64,)), _weight("w2", (64, 3)), _weight("b2", (3,))]
    nodes = [
        h.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        h.make_node("Relu", ["h"], ["r"]),
        h.make_node("Gemm", ["r", "w2", "b2"], ["scores"]),
        h.make_node("Softmax", ["scores"], ["chances"], axis=-1),
    ]
    outputs = [_info("scores", _F, BATCH, 3), _info("chances", _F, BATCH, 3)]
    return SmallModel(
        "perceptron", _model(nodes, [_info("x", _F, BATCH, 8)], outputs, weights), lambda rows: {"x": _floats(rows, 8)}
    )


def convolution() -> SmallModel:
    """Return a convolution with padding, a rectifier and the mean over each channel."""
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["c"], ["r"]),
        h.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    inputs, outputs = [_info("x", _F, BATCH, 1, 8, 8)], [_info("y", _F, BATCH, 4, 1, 1)]
    model = _model(nodes, inputs, outputs, [_weight("w", (4, 1, 3, 3))])
    return SmallModel("convolution", model, lambda rows: {"x": _floats(rows, 1, 8, 8)})


def half() -> SmallModel:
    """Return an addition in float16, whose sums are exact in that type."""
    weights = [nh.from_array(np.array([0.5, 1.0, -2.0], np.float16), "b")]
    inputs, outputs = [_info("x", TensorProto.FLOAT16, BATCH, 3)], [_info("y", TensorProto.FLOAT16, BATCH, 3)]
    model = _model([h.make_node("Add", ["x", "b"], ["y"])], inputs, outputs, weights)
    return SmallModel("half", model, lambda rows: {"x": _whole(rows, 3).astype(np.float16)})


def texts() -> SmallModel:
    """Return text as it is, some of it beyond ASCII, empty, or long."""
    words = np.array(["", "ä", "soil", "泥", "a" * 300], dtype=object)
    inputs, outputs = [_info("x", TensorProto.STRING, BATCH)], [_info("y", TensorProto.STRING, BATCH)]
    model = _model([h.make_node("Identity", ["x"], ["y"])], inputs, outputs)
    return SmallModel("texts", model, lambda rows: {"x": words[np.arange(rows) % len(words)]})


def whole_numbers() -> SmallModel:
    """Return sums and comparisons of int64 beyond what a float32 holds exactly, and truth values.

    They stay within 31 bits: some engines compute int64 as int32, which golden outputs beyond that reveal.
    """
    nodes = [h.make_node("Add", ["a", "b"], ["sum"]), h.make_node("Less", ["a", "b"], ["less"])]
    inputs = [_info("a", _I, BATCH, 3), _info("b", _I, BATCH, 3)]
    model = _model(nodes, inputs, [_info("sum", _I, BATCH, 3), _info("less", _B, BATCH, 3)])
    large = (1 << 30) + 1
    return SmallModel("whole_numbers", model, lambda rows: {"a": _whole(rows, 3) + large, "b": _whole(rows, 3)[::-1]})


def symbols() -> SmallModel:
    """Return two inputs with one symbol: rows on axis 1 of the first and on axis 0 of the second."""
    nodes = [h.make_node("Transpose", ["b"], ["t"], perm=[1, 0]), h.make_node("Sub", ["a", "t"], ["y"])]
    inputs = [_info("a", _F, 3, BATCH), _info("b", _F, BATCH, 3)]
    model = _model(nodes, inputs, [_info("y", _F, 3, BATCH)])
    return SmallModel("symbols", model, lambda rows: {"a": _floats(3, rows), "b": _floats(rows, 3) + 1})


def scalars() -> SmallModel:
    """Return arrays without dimensions, in and out, beside one with rows."""
    nodes = [h.make_node("Mul", ["x", "factor"], ["y"]), h.make_node("ReduceSum", ["y"], ["total"], keepdims=0)]
    inputs = [_info("x", _F, BATCH, 2), _info("factor", _F)]
    model = _model(nodes, inputs, [_info("y", _F, BATCH, 2), _info("total", _F)])
    return SmallModel("scalars", model, lambda rows: {"x": _floats(rows, 2), "factor": np.array(1.5, np.float32)})


def branch() -> SmallModel:
    """Return `If`: which branch runs depends on the inputs, and both read a value from outside."""
    yes = _body("yes", [h.make_node("Add", ["x", "one"], ["up"])], [_info("up", _F, BATCH, 2)])
    no = _body("no", [h.make_node("Sub", ["x", "one"], ["down"])], [_info("down", _F, BATCH, 2)])
    nodes = [
        h.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        h.make_node("Greater", ["sum", "zero"], ["positive"]),
        h.make_node("If", ["positive"], ["y"], then_branch=yes, else_branch=no),
    ]
    weights = [nh.from_array(np.array(value, np.float32), name) for name, value in (("one", 1.0), ("zero", 0.0))]
    model = _model(nodes, [_info("x", _F, BATCH, 2)], [_info("y", _F, BATCH, 2)], weights)
    return SmallModel("branch", model, lambda rows: {"x": np.abs(_floats(rows, 2)) * (1 if rows % 2 else -1)})


def loop() -> SmallModel:
    """Return `Loop`: a value is doubled as many times as a scalar input says."""
    infos = [_info("i", _I), _info("go", _B), _info("v", _F, BATCH, 2)]
    body = h.make_graph(
        [h.make_node("Identity", ["go"], ["on"]), h.make_node("Add", ["v", "v"], ["doubled"])],
        "body",
        infos,
        [_info("on", _B), _info("doubled", _F, BATCH, 2)],
    )
    node = h.make_node("Loop", ["times", "start", "x"], ["y"], body=body)
    inputs, outputs = [_info("times", _I), _info("x", _F, BATCH, 2)], [_info("y", _F, BATCH, 2)]
    model = _model([node], inputs, outputs, [nh.from_array(np.array(True), "start")])
    return SmallModel("loop", model, lambda rows: {"times": np.array(rows + 1, np.int64), "x": _floats(rows, 2)})


def passed_on() -> SmallModel:
    """Return an input as it is, under two names, one of them by way of a node that does nothing in inference."""
    nodes = [h.make_node("Dropout", ["x"], ["z"]), h.make_node("Identity", ["x"], ["y"])]
    model = _model(nodes, [_info("x", _F, BATCH, 2)], [_info("z", _F, BATCH, 2), _info("y", _F, BATCH, 2)])
    return SmallModel("passed_on", model, lambda rows: {"x": _floats(rows, 2)})


def pieces() -> SmallModel:
    """Return a sequence of two arrays of different widths."""
    kind = h.make_sequence_type_proto(h.make_tensor_type_proto(_F, None))
    weights = [nh.from_array(np.array([1, 3], np.int64), "widths")]
    nodes = [h.make_node("SplitToSequence", ["x", "widths"], ["y"], axis=1)]
    model = _model(nodes, [_info("x", _F, BATCH, 4)], [h.make_value_info("y", kind)], weights)
    return SmallModel("pieces", model, lambda rows: {"x": _floats(rows, 4)})


def maybe() -> SmallModel:
    """Return whether an optional input is there."""
    tensor: TypeProto = h.make_tensor_type_proto(_F, [2])
    given = h.make_value_info("x", h.make_optional_type_proto(tensor))
    model = _model([h.make_node("OptionalHasElement", ["x"], ["y"])], [given], [_info("y", _B)])
    return SmallModel("maybe", model, lambda rows: {"x": np.arange(2, dtype=np.float32)})


def found_by_value() -> SmallModel:
    """Return the places of positive values: the shape of the output depends on values, not on shapes."""
    nodes = [h.make_node("Greater", ["x", "zero"], ["more"]), h.make_node("NonZero", ["more"], ["y"])]
    weights = [nh.from_array(np.array(0.0, np.float32), "zero")]
    model = _model(nodes, [_info("x", _F, BATCH, 4)], [_info("y", _I, 2, "found")], weights)
    return SmallModel("found_by_value", model, lambda rows: {"x": _floats(rows, 4) - 0.3 * rows})


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Sequence[TensorProto] = (),
) -> ModelProto:
    graph = h.make_graph(list(nodes), "small", list(inputs), list(outputs), list(weights))
    return h.make_model(graph, opset_imports=[h.make_opsetid("", _OPSET)], ir_version=_IR)


def _body(name: str, nodes: Sequence[NodeProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
    return h.make_graph(list(nodes), name, [], list(outputs))


def _info(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
    return h.make_tensor_value_info(name, kind, list(dims))


def _weight(name: str, shape: tuple[int, ...], scale: float = 1.0) -> TensorProto:
    values = np.random.default_rng(len(name) + sum(shape)).standard_normal(shape) * scale
    return nh.from_array(values.astype(np.float32), name)


def _floats(*shape: int) -> Array:
    return np.random.default_rng(shape[0]).standard_normal(shape).astype(np.float32)


def _whole(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % 7


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else np.asarray(value)
