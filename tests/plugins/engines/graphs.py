"""Small ONNX files for tests of engines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilth.core.build import Build, Precision, Scalar
from tilth.core.device import Device

Array = np.ndarray[Any, Any]
CPU = Device("cpu", "cpu-x86_64", "test", cores=2)
N = helper.make_node


def build(engine: str, settings: Mapping[str, Scalar] | None = None) -> Build:
    """Return an fp32 build with these settings."""
    return Build("", CPU.target, engine, Precision.FP32, settings=settings or {})


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    outputs: Mapping[str, int],
    constants: Mapping[str, Array] | None = None,
) -> Path:
    """Write a model of opset 18; inputs are element type and shape, outputs have open shapes."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    path = folder / "model.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def perceptron(folder: Path) -> tuple[Path, Array]:
    """Write y = relu(x w), x of (batch, 4); return the file and w."""
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [N("MatMul", ["x", "w"], ["m"]), N("Relu", ["m"], ["y"])]
    given = {"x": (TensorProto.FLOAT, ["batch", 4])}
    return saved(folder, nodes, given, {"y": TensorProto.FLOAT}, {"w": weights}), weights


def rows(count: int, seed: int = 1) -> Array:
    """Return normal float32 rows of 4."""
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
