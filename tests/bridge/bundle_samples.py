"""Small models and bundles that the tests of the bridge's files share."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto
from onnx import helper as h

from tilth.bridge.bundle_write import encode_value, sizes_of, write_bundle
from tilth.bridge.skeleton import Parts, split
from tilth.core.bundle import SCHEMA, Case, Golden, Manifest, Source
from tilth.core.signature import Signature, TensorSpec
from tilth.ports.arrays import Values

WEIGHTS = np.random.default_rng(7).standard_normal((64, 32)).astype(np.float32)
BIAS = np.arange(32, dtype=np.float32)


def tensor(name: str, value: np.ndarray[Any, Any]) -> TensorProto:
    return h.make_tensor(name, h.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.tobytes(), raw=True)


def external(name: str, location: str, shape: tuple[int, ...] = (64, 32), **entries: object) -> TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def model(*initializers: TensorProto, nodes: list[Any] | None = None, **more: Any) -> ModelProto:
    """Return y = x @ w + b with 64 inputs and 32 outputs per row, or with other initializers and nodes."""
    weights = list(initializers) or [tensor("w", WEIGHTS), tensor("b", BIAS)]
    nodes = nodes or [h.make_node("MatMul", ["x", "w"], ["p"]), h.make_node("Add", ["p", "b"], ["y"])]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        weights,
    )
    return h.make_model(graph, **{"opset_imports": [h.make_opsetid("", 17)], "ir_version": 9, **more})


def saved(made: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def golden_values() -> Values:
    return {"x": np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)}


def manifest_of(parts: Parts, cases: list[tuple[Values, Values]] | None = None) -> tuple[Manifest, dict[str, Any]]:
    blobs = dict(parts.blobs)
    made = []
    for pair in cases or [(golden_values(), {"y": golden_values()["x"] @ WEIGHTS + BIAS})]:
        sides = []
        for values in pair:
            encoded = {name: encode_value(value) for name, value in values.items()}
            for _, found in encoded.values():
                blobs |= found
            sides.append({name: value for name, (value, _) in encoded.items()})
        made.append(Case(*sides))
    signature = Signature((TensorSpec("x", "float32", ("batch", 64)),), (TensorSpec("y", "float32", ("batch", 32)),))
    manifest = Manifest(
        schema=SCHEMA,
        name="sample",
        created_at="2026-11-22T00:00:00Z",
        source=Source("onnx", "1.23.2"),
        graphs=(parts.graph,),
        signature=signature,
        golden=Golden("given", tuple(made)),
        blobs=sizes_of(blobs),
    )
    return manifest, blobs


def write_sample(path: Path, *, folder: bool = False) -> tuple[Manifest, dict[str, Any]]:
    manifest, blobs = manifest_of(split(model(), None))
    write_bundle(path, manifest, blobs, folder=folder)
    return manifest, blobs
