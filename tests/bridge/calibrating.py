"""Small float networks, an engine that calibrates them, and what their int8 versions answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tilth.core.build import Build, Precision
from tilth.core.device import Device
from tilth.plugins.engines.ort import OrtEngine
from tilth.ports.engine import Session

Array = np.ndarray[Any, Any]
N = helper.make_node
CPU = Device("cpu:0", "cpu-x86_64", "test", cores=2)


class Loads:
    """The calibrating engine, and how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path) -> Session:
        self.count += 1
        return OrtEngine().load(path, Build("", CPU.target, "ort", Precision.FP32), CPU)


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, int],
    constants: Mapping[str, Array],
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a float32 model; `outputs` gives the rank of each output."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Return normal float32 noise."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def rows(count: int, *shape: int, name: str = "x") -> list[dict[str, Array]]:
    """Return `count` inputs of one row each."""
    return [{name: noise(1, *shape, seed=100 + i)} for i in range(count)]


def residual(depthwise: bool = False) -> onnx.ModelProto:
    """Return conv, relu, conv, add, relu, and a product over the mean: a small image classifier."""
    group = 16 if depthwise else 1
    nodes = [
        N("Conv", ["x", "w0", "b0"], ["c0"], pads=[1] * 4),
        N("Relu", ["c0"], ["r0"]),
        N("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1] * 4, group=group),
        N("Add", ["c1", "r0"], ["s"]),
        N("Relu", ["s"], ["r1"]),
        N("Conv", ["r1", "w2"], ["c2"], strides=[2, 2]),
        N("Relu", ["c2"], ["r2"]),
        N("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        N("Flatten", ["p"], ["f"]),
        N("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    constants = {
        "w0": noise(16, 3, 3, 3, seed=1, scale=0.3),
        "b0": noise(16, seed=2, scale=0.1),
        "w1": noise(16, 16 // group, 3, 3, seed=3, scale=0.1 if group == 1 else 0.4),
        "b1": noise(16, seed=4, scale=0.1),
        "w2": noise(32, 16, 2, 2, seed=5, scale=0.2),
        "w3": noise(12, 128, seed=6, scale=0.1),
        "b3": noise(12, seed=7),
    }
    return network(nodes, {"x": ["batch", 3, 9, 9]}, {"y": 2}, constants)


def answers(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    """Return what onnxruntime answers with all its fusions."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(feed))]


def error(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Return the largest rms relative error of an output."""
    pairs = zip(found, wanted, strict=True)
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)) for a, b in pairs)


def fused(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Return the operators of the graph as onnxruntime runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "fused.onnx").graph.node]


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the operators of the main graph in order."""
    return [node.op_type for node in model.graph.node]
