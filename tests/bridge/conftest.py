"""What the tests of the bridge share; its presence lets them import the modules beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx import helper as h

from tilth.bridge.bundle_write import encode_value, sizes_of, write_bundle
from tilth.bridge.skeleton import split
from tilth.core.bundle import SCHEMA, Case, Golden, Manifest, Source
from tilth.core.signature import Signature, TensorSpec


@pytest.fixture
def doubler(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a bundle of y = x + x; `batch=4` fixes the batch, `error` spoils the golden outputs."""

    def write(name: str = "m.tilth", *, batch: Any = "batch", error: float = 0.0) -> Path:
        edges = [h.make_tensor_value_info(edge, TensorProto.FLOAT, [batch, 2]) for edge in "xy"]
        nodes = [h.make_node("Add", ["x", "x"], ["s"]), h.make_node("Identity", ["s"], ["y"])]
        graph = h.make_graph(nodes, "g", edges[:1], edges[1:])
        parts = split(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), None)
        x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
        (inputs, one), (outputs, other) = encode_value(x), encode_value(x * 2 + np.float32(error))
        blobs = {**parts.blobs, **one, **other}
        manifest = Manifest(
            schema=SCHEMA,
            name="doubler",
            created_at="2026-11-22T00:00:00Z",
            source=Source("onnx", "1"),
            graphs=(parts.graph,),
            signature=Signature((TensorSpec("x", "float32", (batch, 2)),), (TensorSpec("y", "float32", (batch, 2)),)),
            golden=Golden("given", (Case({"x": inputs}, {"y": outputs}),)),
            blobs=sizes_of(blobs),
        )
        write_bundle(tmp_path / name, manifest, blobs)
        return tmp_path / name

    return write
