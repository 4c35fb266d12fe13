"""Small models for tests of graph passes, and the comparison of what they answer before and after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tilth.bridge.passes.base import Pass

Array = np.ndarray[Any, Any]
FOLDER = Path("nowhere")


def made(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    *,
    kinds: Mapping[str, int] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """Return a model; inputs and outputs are float32 unless `kinds` says otherwise, output shapes are open."""
    known = kinds or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, known.get(n, TensorProto.FLOAT), shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, known.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def answers(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    """Return what the graph as it stands answers, unfused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(feed))]


def changed(one: Pass, model: onnx.ModelProto, *feeds: Mapping[str, Array], exact: bool = False) -> int:
    """Apply the pass; check that every feed has the same answers; return how many places changed."""
    before = [answers(model, feed) for feed in feeds]
    edge = [value.SerializeToString() for value in (*model.graph.input, *model.graph.output)]
    changes = one(model)
    assert [value.SerializeToString() for value in (*model.graph.input, *model.graph.output)] == edge
    for feed, wanted in zip(feeds, before, strict=True):
        for found, value in zip(answers(model, feed), wanted, strict=True):
            assert (found.shape, found.dtype) == (value.shape, value.dtype)
            if exact or value.dtype.kind != "f":
                np.testing.assert_array_equal(found, value)
            else:
                scale = float(np.sqrt(np.mean(np.square(value)))) if value.size else 1.0
                np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6 * max(scale, 1e-30))
    return changes


def untouched(one: Pass, model: onnx.ModelProto) -> None:
    """Check that the pass leaves the model as it is, to the byte."""
    before = model.SerializeToString(deterministic=True)
    assert one(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators of the main graph in order."""
    return [node.op_type for node in model.graph.node]


def noise(*shape: int, seed: int = 0) -> Array:
    """Return normal float32 noise."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
