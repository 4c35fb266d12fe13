"""Builds, devices, signatures and sizes: the identities that files are named by."""

import dataclasses
from typing import Any

import onnx
import pytest

from tilth.core.build import Build, Precision
from tilth.core.bundle import SCHEMA, Golden, Manifest, Source
from tilth.core.device import Device
from tilth.core.dtype import BITS, NAMES, ONNX_CODES, size_bytes
from tilth.core.graph import Graph
from tilth.core.signature import Signature, TensorSpec

BUILD = Build("a" * 64, "cpu-x86_64", "ort", Precision.FP32, "lean", "b" * 64, {"threads": 2, "spin": False})
OTHER: dict[str, Any] = {
    "graph": "c" * 64,
    "target": "cpu-aarch64",
    "engine": "openvino",
    "precision": Precision.INT8,
    "recipe": "plain",
    "variant": "",
    "settings": {"threads": 2},
}


def test_every_field_of_a_build_has_a_change_below() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Build)}


@pytest.mark.parametrize("field", OTHER)
def test_a_change_of_any_field_changes_the_id(field: str) -> None:
    assert dataclasses.replace(BUILD, **{field: OTHER[field]}).id != BUILD.id


def test_settings_that_look_alike_are_different_builds() -> None:
    ids = {dataclasses.replace(BUILD, settings={"threads": value}).id for value in (1, 1.5, "1", True)}
    assert len(ids) == 4


def test_the_id_is_pinned_and_the_order_of_settings_does_not_matter() -> None:
    assert BUILD.id == "41cc31aafca4"
    assert dataclasses.replace(BUILD, settings={"spin": False, "threads": 2}).id == BUILD.id


def test_a_label_is_stable_and_leaves_out_the_plain_recipe() -> None:
    assert BUILD.label == "ort fp32 lean spin=False threads=2"
    assert Build("g", "t", "openvino", Precision.BF16).label == "openvino bf16"


def test_a_simulated_chip_never_passes_for_a_real_one() -> None:
    assert Device("x", "simulated:ascend-310p3", "x").simulated
    assert not Device("x", "ascend-310p3", "simulated:x").simulated


def test_a_spec_reads_like_its_declaration() -> None:
    assert str(TensorSpec("x", "float32", ("batch", 3), unit="m/s")) == "x: float32[batch, 3] (m/s)"
    assert str(TensorSpec("x", "int64", None, "sequence")) == "x: sequence of int64[?]"
    assert str(TensorSpec("x", "int64", (), "optional")) == "x: optional of int64[]"


@pytest.mark.parametrize(("shape", "dynamic"), [(("batch", 2), True), ((2, "seq"), False), (None, False), ((), False)])
def test_only_a_dimension_named_batch_is_a_batch(shape: Any, dynamic: bool) -> None:
    assert Signature((TensorSpec("x", "float32", shape),), ()).dynamic_batch is dynamic


@pytest.mark.parametrize(
    ("dtype", "elements", "size"),
    [("float32", 3, 12), ("int4", 3, 2), ("int2", 5, 2), ("uint4", 0, 0), ("complex128", 1, 16), ("bool", 7, 7)],
)
def test_packed_elements_share_bytes(dtype: str, elements: int, size: int) -> None:
    assert size_bytes(dtype, elements) == size


def test_a_type_that_nobody_knows_has_no_size() -> None:
    with pytest.raises(KeyError):
        size_bytes("float1024", 1)


def test_type_names_and_onnx_numbers_are_one_to_one() -> None:
    assert all(NAMES[code] == name for name, code in ONNX_CODES.items()) and len(NAMES) == len(BITS)
    assert set(NAMES) <= {value.number for value in onnx.TensorProto.DataType.DESCRIPTOR.values}
    assert ONNX_CODES["float32"] == onnx.TensorProto.FLOAT and ONNX_CODES["int2"] == onnx.TensorProto.INT2


def test_the_source_graph_is_the_first() -> None:
    graphs = tuple(Graph(name * 64, {"ai.onnx": 17}, {}, 0, 0) for name in "ab")
    made = Manifest(
        SCHEMA, "m", "now", Source("onnx", "1"), graphs, Signature((), ()), Golden("made", ()), {"a" * 64: 1}
    )
    assert made.graph is graphs[0]
