"""Models taken apart and put together: nothing may change, and the digest must bind every weight."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bundle_samples import BIAS, WEIGHTS, external, model, tensor
from onnx import ModelProto, TensorProto
from onnx import helper as h

from tilth.bridge.skeleton import Parts, join, split
from tilth.core.blob import FileRange, bytes_of
from tilth.core.digest import digest
from tilth.core.errors import TilthError, UntrustedError

RELU = h.make_node("Relu", ["x"], ["y"])


def joined(parts: Parts) -> ModelProto:
    return join(parts.skeleton, lambda name: bytes_of(parts.blobs[name]))


def test_join_gives_back_what_split_took() -> None:
    made = model()
    made.metadata_props.add(key="author", value="somebody")
    assert joined(split(made, None)) == made


def test_the_authors_paths_in_exporters_comments_do_not_travel() -> None:
    made, plain = model(), model()
    made.doc_string = made.graph.doc_string = made.graph.initializer[0].doc_string = "/home/author/train.py"
    made.graph.node[0].doc_string = made.graph.input[0].doc_string = "/home/author/train.py"
    made.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/author/train.py"')
    made.graph.initializer[0].metadata_props.add(key="location", value="/home/author/train.py")
    assert b"/home/author" not in split(made, None).skeleton
    assert split(made, None).skeleton == split(plain, None).skeleton


def test_split_leaves_the_model_as_it_was() -> None:
    made = model()
    before = made.SerializeToString(deterministic=True)
    split(made, None)
    assert made.SerializeToString(deterministic=True) == before


def test_large_weights_leave_the_skeleton_and_small_ones_stay() -> None:
    parts = split(model(), None)
    skeleton = ModelProto.FromString(parts.skeleton)
    w, b = skeleton.graph.initializer
    entries = {entry.key: entry.value for entry in w.external_data}
    name = digest(WEIGHTS.tobytes())
    assert entries == {"location": name, "offset": "0", "length": str(WEIGHTS.nbytes)}
    assert not w.HasField("raw_data")
    assert b.raw_data == BIAS.tobytes()
    assert parts.blobs == {name: WEIGHTS.tobytes(), digest(parts.skeleton): parts.skeleton}


@pytest.mark.parametrize(("rows", "outside"), [(1023, False), (1024, True)])
def test_the_limit_is_4096_bytes(rows: int, outside: bool) -> None:
    parts = split(model(tensor("w", np.zeros(rows, np.float32)), nodes=[RELU]), None)
    assert bool(parts.graph.weights) is outside


def test_one_changed_bit_in_a_weight_changes_the_graph_digest() -> None:
    changed = WEIGHTS.copy()
    changed.view(np.uint32)[3, 3] ^= 1
    first, second = split(model(), None), split(model(tensor("w", changed), tensor("b", BIAS)), None)
    assert first.graph.digest != second.graph.digest


def test_the_digest_does_not_depend_on_where_weights_were_kept(tmp_path: Path) -> None:
    (tmp_path / "all.bin").write_bytes(BIAS.tobytes() + WEIGHTS.tobytes())
    outside = model(
        external("w", "all.bin", offset=BIAS.nbytes, length=WEIGHTS.nbytes),
        external("b", "all.bin", (32,), length=BIAS.nbytes),
    )
    typed = model(
        h.make_tensor("w", TensorProto.FLOAT, WEIGHTS.shape, WEIGHTS.ravel().tolist()),
        h.make_tensor("b", TensorProto.FLOAT, BIAS.shape, BIAS.tolist()),
    )
    parts = [split(model(), None), split(outside, tmp_path), split(typed, None)]
    assert len({item.skeleton for item in parts}) == 1
    assert isinstance(parts[1].blobs[digest(WEIGHTS.tobytes())], FileRange)
    assert joined(parts[1]) == model()


def test_equal_weights_are_one_blob() -> None:
    parts = split(model(tensor("w", WEIGHTS), tensor("v", WEIGHTS), nodes=[RELU]), None)
    assert len(parts.blobs) == 2
    assert parts.graph.weights_bytes == 2 * WEIGHTS.nbytes
    assert sum(parts.graph.weights.values()) == WEIGHTS.nbytes


ALL_TYPES = [
    (TensorProto.FLOAT, np.array([1.5, -0.0, np.inf], "<f4").tobytes(), [1.5, -0.0, float("inf")]),
    (TensorProto.DOUBLE, np.array([1e300, 5e-324, 0], "<f8").tobytes(), [1e300, 5e-324, 0.0]),
    (TensorProto.INT64, np.array([-1, 2**63 - 1, 0], "<i8").tobytes(), [-1, 2**63 - 1, 0]),
    (TensorProto.UINT64, np.array([1, 2**64 - 1, 0], "<u8").tobytes(), [1, 2**64 - 1, 0]),
    (TensorProto.UINT32, np.array([1, 2**32 - 1, 0], "<u4").tobytes(), [1, 2**32 - 1, 0]),
    (TensorProto.INT32, np.array([-1, 2**31 - 1, 0], "<i4").tobytes(), [-1, 2**31 - 1, 0]),
    (TensorProto.INT16, np.array([-1, 2**15 - 1, 0], "<i2").tobytes(), [-1, 2**15 - 1, 0]),
    (TensorProto.UINT16, np.array([1, 2**16 - 1, 0], "<u2").tobytes(), [1, 2**16 - 1, 0]),
    (TensorProto.INT8, np.array([-1, 127, 0], "i1").tobytes(), [-1, 127, 0]),
    (TensorProto.UINT8, np.array([1, 255, 0], "u1").tobytes(), [1, 255, 0]),
    (TensorProto.BOOL, b"\1\0\1", [True, False, True]),
    (TensorProto.COMPLEX64, np.array([1 + 2j, 3j, 0], "<c8").tobytes(), [1 + 2j, 3j, 0]),
    (TensorProto.COMPLEX128, np.array([1 + 2j, 3j, 0], "<c16").tobytes(), [1 + 2j, 3j, 0]),
    (TensorProto.FLOAT16, np.array([1.5, -2, 65504], "<f2").tobytes(), [1.5, -2.0, 65504.0]),
]


@pytest.mark.parametrize(("code", "raw", "values"), ALL_TYPES)
def test_typed_values_become_the_raw_bytes_that_onnx_itself_reads(code: int, raw: bytes, values: list[object]) -> None:
    typed = h.make_tensor("w", code, (3,), values)
    found = joined(split(model(typed, nodes=[RELU]), None)).graph.initializer[0]
    assert found.raw_data == raw
    assert onnx.numpy_helper.to_array(found).tobytes() == onnx.numpy_helper.to_array(typed).tobytes()


@pytest.mark.parametrize(
    ("code", "entries", "raw"),
    [
        (TensorProto.INT4, [0x21, 0x03], b"\x21\x03"),
        (TensorProto.BFLOAT16, [0x3F80, 0x8000, 1], b"\x80\x3f\x00\x80\x01\x00"),
        (TensorProto.FLOAT8E4M3FN, [1, 2, 255], b"\x01\x02\xff"),
    ],
)
def test_packed_typed_values_become_raw(code: int, entries: list[int], raw: bytes) -> None:
    typed = TensorProto(name="w", data_type=code, dims=[3], int32_data=entries)
    assert joined(split(model(typed, nodes=[RELU]), None)).graph.initializer[0].raw_data == raw


def test_strings_empty_tensors_and_scalars_survive() -> None:
    texts = h.make_tensor("s", TensorProto.STRING, (2,), ["ü", ""])
    made = model(texts, tensor("e", np.zeros((0, 5), np.float32)), tensor("z", np.array(3, np.int64)), nodes=[RELU])
    assert joined(split(made, None)) == made


def nested() -> ModelProto:
    outputs = [h.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    constant = h.make_node("Constant", [], ["k"], value=tensor("k", WEIGHTS + 1))
    then = h.make_graph([h.make_node("MatMul", ["x", "v"], ["r"])], "then", [], outputs, [tensor("v", WEIGHTS)])
    other = h.make_graph([constant, h.make_node("MatMul", ["x", "k"], ["r"])], "else", [], outputs)
    node = h.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return model(tensor("c", np.array(False)), nodes=[node])


def test_weights_in_subgraphs_and_constants_are_bound_and_load_from_files(tmp_path: Path) -> None:
    parts = split(nested(), None)
    assert set(parts.graph.weights) == {digest(WEIGHTS.tobytes()), digest((WEIGHTS + 1).tobytes())}
    assert joined(parts) == nested()
    for name, source in parts.blobs.items():
        (tmp_path / name).write_bytes(bytes_of(source))
    x = np.ones((2, 64), np.float32)
    whole = onnxruntime.InferenceSession(nested().SerializeToString()).run(None, {"x": x})[0]
    apart = onnxruntime.InferenceSession(str(tmp_path / parts.graph.digest)).run(None, {"x": x})[0]
    assert np.array_equal(whole, apart)


def test_facts_count_inner_nodes_and_name_domains() -> None:
    graph = split(nested(), None).graph
    assert graph.ops == {"Constant": 1, "If": 1, "MatMul": 2}
    assert graph.nodes == 4
    assert graph.opsets == {"ai.onnx": 17}
    assert graph.dtypes == ("bool", "float32")
    gelu = model(nodes=[h.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")])
    assert split(gelu, None).graph.ops == {"com.microsoft::Gelu": 1}


def test_fields_unknown_to_this_onnx_do_not_reach_an_engine() -> None:
    data = model().SerializeToString() + b"\xba\x3e\x04evil"
    assert b"evil" in ModelProto.FromString(data).SerializeToString()
    assert b"evil" not in split(ModelProto.FromString(data), None).skeleton


def test_a_blob_of_another_length_is_refused() -> None:
    with pytest.raises(UntrustedError, match="needs 8192"):
        join(split(model(), None).skeleton, lambda name: b"short")


def test_split_refuses_what_the_checks_refuse(tmp_path: Path) -> None:
    with pytest.raises(TilthError):
        split(model(external("w", "../w"), tensor("b", BIAS)), tmp_path)
