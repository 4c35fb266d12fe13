"""ONNX files that are damaged, hostile or something else."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundle_samples import BIAS, WEIGHTS, external, model, saved, tensor
from onnx import ModelProto, TensorProto
from onnx import helper as h

from tilth.bridge.model_checks import check_model
from tilth.bridge.model_file import read_model
from tilth.core.errors import InvalidError, MissingError, TilthError, UnsupportedError, UntrustedError


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


HEAD = b"\x08\x09" + field(8, varint(16) + b"\x11")


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + varint(160) + b"\x05" + field(6, graph)))
    return HEAD + field(7, graph)


def test_a_file_and_a_folder_give_the_same_model(tmp_path: Path) -> None:
    path = saved(model(), tmp_path)
    by_file, folder = read_model(path)
    assert by_file == read_model(tmp_path)[0] == model()
    assert folder == tmp_path


def test_external_data_beside_the_model_is_accepted_and_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.bin").write_bytes(b"head" + WEIGHTS.tobytes())
    made = model(external("w", "deep/w.bin", offset=4, length=WEIGHTS.nbytes), tensor("b", BIAS))
    read, _ = read_model(saved(made, tmp_path))
    assert read.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert not read.graph.initializer[0].raw_data


def test_a_folder_with_two_models_names_both(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(model().SerializeToString())
    with pytest.raises(InvalidError, match=r"2 `.onnx` files: `a.onnx`, `b.onnx`"):
        read_model(tmp_path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        read_model(tmp_path / "no.onnx")


def renamed_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x")


def safetensors(path: Path, claimed: int | None = None) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes((claimed or len(header)).to_bytes(8, "little") + header + b"\0" * 4)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "pickle"),
        (renamed_zip, "zip"),
        (safetensors, "safetensors"),
        (lambda path: safetensors(path, 1 << 63), "safetensors"),
        (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 16), "GGUF"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 99), "HDF5"),
        (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 99), "TensorFlow Lite"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>"), "text"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda path: path.write_bytes(b"\x93NUMPY\1\0v\0" + b" " * 99), "numpy"),
        (lambda path: path.write_bytes(bytes(range(7, 200))), "another format"),
    ],
)
def test_another_format_under_the_name_of_onnx_is_named(tmp_path: Path, write: Any, said: str) -> None:
    path = tmp_path / "model.onnx"
    write(path)
    with pytest.raises(InvalidError) as caught:
        read_model(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(tmp_path: Path, share: float) -> None:
    data = model().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InvalidError):
        read_model(path)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(UntrustedError, match="is not read"):
        read_model(tmp_path / "model.onnx")


def test_a_file_beyond_two_gibibytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = saved(model(), tmp_path)
    os.truncate(path, 1 << 31)
    with pytest.raises(UnsupportedError, match="2147483648"):
        read_model(path)


def test_a_million_nodes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(HEAD + field(7, field(1, field(1, b"x") + field(2, b"y") + field(4, b"Add")) * 1_000_000))
    with pytest.raises(UnsupportedError, match="200,000 nodes"):
        read_model(path)


def test_a_million_empty_graphs_in_one_attribute_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    many = field(5, field(1, b"b") + field(11, b"") * 1_000_000)
    path.write_bytes(HEAD + field(7, field(1, field(4, b"If") + field(2, b"y") + many)))
    with pytest.raises(UnsupportedError, match="200,000 nodes or graphs"):
        read_model(path)


@pytest.mark.parametrize("depth", [33, 34, 100, 10_000])
def test_subgraphs_nested_too_deep_do_not_crash(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(nested(depth))
    with pytest.raises((InvalidError, UnsupportedError), match="in one another|not an ONNX model"):
        read_model(path)


def changed(**fields: Any) -> ModelProto:
    made = model()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def with_opset(domain: str, version: int) -> ModelProto:
    return model(opset_imports=[h.make_opsetid("", 17), h.make_opsetid(domain, version)])


def without(name: str) -> ModelProto:
    made = model()
    made.ClearField(name)
    return made


def function(name: str, *calls: str, domain: str = "mine") -> onnx.FunctionProto:
    nodes = [h.make_node(call, ["a"], [f"t{i}"], domain=domain) for i, call in enumerate(calls)]
    nodes.append(h.make_node("Relu", ["a"], ["z"]))
    return h.make_function(domain, name, ["a"], ["z"], nodes, [h.make_opsetid("", 17), h.make_opsetid(domain, 1)])


def calling(*functions: onnx.FunctionProto, op: str = "f0") -> ModelProto:
    imports = [h.make_opsetid("", 17), h.make_opsetid("mine", 1)]
    return model(nodes=[h.make_node(op, ["x"], ["y"], domain="mine")], functions=functions, opset_imports=imports)


BOMB = [function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(30)] + [function("f30")]


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (without("graph"), InvalidError, "no graph"),
        (without("opset_import"), InvalidError, "no opset"),
        (without("ir_version"), InvalidError, "IR version 0"),
        (changed(ir_version=-3), InvalidError, "IR version -3"),
        (changed(ir_version=1 << 40), InvalidError, "IR version"),
        (changed(ir_version=onnx.IR_VERSION + 1), UnsupportedError, "upgrade onnx"),
        (with_opset("ai.onnx.ml", 99), UnsupportedError, "`ai.onnx.ml` has version 99"),
        (with_opset("", 17), InvalidError, "imported twice"),
        (with_opset("ai.onnx", 18), InvalidError, "imported twice"),
        (with_opset("ai.onnx.ml", 0), InvalidError, "versions start at 1"),
        (model(opset_imports=[h.make_opsetid("", 1 << 60)]), UnsupportedError, "export with opset"),
        (model(nodes=[h.make_node("Magic", ["x"], ["y"], domain="acme.ops")]), UnsupportedError, "`acme.ops`"),
        (calling(function("f1")), UnsupportedError, "`f0` is of the unknown domain `mine`"),
        (calling(function("f0", "f1"), function("f1", "f0")), InvalidError, "calls itself"),
        (calling(function("f0"), function("f0")), InvalidError, "defined twice"),
        (calling(*BOMB), UnsupportedError, "put in place"),
    ],
)
def test_versions_domains_and_functions_are_checked(made: ModelProto, error: type[TilthError], said: str) -> None:
    with pytest.raises(error) as caught:
        check_model(made, None)
    assert said in str(caught.value)


def test_a_function_of_the_model_and_microsoft_operators_pass() -> None:
    check_model(calling(function("f0", "f1"), function("f1")), None)
    check_model(model(nodes=[h.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]), None)


RELU = h.make_node("Relu", ["x"], ["y"])


def with_input(name: str) -> ModelProto:
    made = model()
    made.graph.input.add().CopyFrom(h.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
    return made


def with_output(name: str) -> ModelProto:
    made = model()
    made.graph.output.add().CopyFrom(h.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (model(nodes=[RELU, RELU]), "`y` appears twice among the node outputs"),
        (model(tensor("w", WEIGHTS), tensor("w", WEIGHTS), nodes=[RELU]), "`w` appears twice among the initializers"),
        (model(tensor("y", BIAS), nodes=[RELU]), "`y` is made twice"),
        (with_input("x"), "`x` appears twice among the inputs"),
        (with_input("p"), "`p` is made twice"),
        (with_output("y"), "`y` appears twice among the outputs"),
        (with_output("ghost"), "`ghost` is an output"),
        (with_input(""), "empty name"),
        (model(nodes=[h.make_node("Relu", ["ghost"], ["y"])]), "reads `ghost`"),
    ],
)
def test_names_that_contradict_one_another_are_refused(made: ModelProto, said: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_model(made, None)
    assert said in str(caught.value)


def test_an_inner_graph_reads_outer_names_and_branches_share_names() -> None:
    branches = [
        h.make_graph([h.make_node("Add", ["x", "w"], ["r"])], name, [], [h.make_tensor_value_info("r", 1, None)])
        for name in ("a", "b")
    ]
    node = h.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    check_model(model(tensor("w", WEIGHTS), tensor("c", np.array(True)), nodes=[node]), None)


def wrong(**fields: Any) -> TensorProto:
    made = TensorProto(name="w", data_type=fields.pop("data_type", TensorProto.FLOAT))
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "bad",
    [
        wrong(dims=[2], raw_data=b"\0" * 4),
        wrong(dims=[2], raw_data=b"\0" * 12),
        wrong(dims=[2], float_data=[1.0]),
        wrong(dims=[2], float_data=[1.0, 2.0, 3.0]),
        wrong(dims=[2], int32_data=[1, 2]),
        wrong(dims=[1], float_data=[1.0], raw_data=b"\0" * 4),
        wrong(dims=[-1], raw_data=b""),
        wrong(dims=[-1, -1], float_data=[1.0]),
        wrong(dims=[1 << 62, 4], raw_data=b""),
        wrong(dims=[1 << 32, 1 << 32], raw_data=b""),
        wrong(dims=[(1 << 63) - 1], raw_data=b""),
        wrong(dims=[0, 1 << 62, 1 << 62], raw_data=b""),
        wrong(dims=[1] * 33, float_data=[1.0]),
        wrong(dims=[1]),
        wrong(dims=[2], data_type=TensorProto.STRING, string_data=[b"a"]),
        wrong(dims=[1], data_type=TensorProto.STRING, raw_data=b"a"),
        wrong(dims=[3], data_type=TensorProto.INT4, raw_data=b"\0"),
        wrong(dims=[3], data_type=TensorProto.INT4, int32_data=[1]),
        wrong(dims=[1], data_type=TensorProto.COMPLEX64, float_data=[1.0]),
    ],
)
def test_a_shape_that_contradicts_the_bytes_is_refused(bad: TensorProto) -> None:
    with pytest.raises(InvalidError, match="`w` is not what it claims to be"):
        check_model(model(bad, nodes=[RELU]), None)
    constant = h.make_node("Constant", [], ["c"], value=bad)
    with pytest.raises(InvalidError, match="`w` is not what it claims to be"):
        check_model(model(nodes=[RELU, constant]), None)


@pytest.mark.parametrize("code", [0, 27, 99])
def test_an_unknown_element_type_is_refused(code: int) -> None:
    with pytest.raises(UnsupportedError, match=f"element type {code}"):
        check_model(model(wrong(data_type=code, dims=[1], raw_data=b"\0"), nodes=[RELU]), None)


def test_sparse_tensors_are_refused_wherever_they_are() -> None:
    sparse = onnx.SparseTensorProto(values=tensor("s", BIAS), indices=tensor("i", np.arange(32)), dims=[1 << 40])
    initializer = model(nodes=[RELU])
    initializer.graph.sparse_initializer.append(sparse)
    constant = model(nodes=[RELU, h.make_node("Constant", [], ["c"], sparse_value=sparse)])
    for made in (initializer, constant):
        with pytest.raises(UnsupportedError, match="sparse"):
            check_model(made, None)


def test_training_information_is_refused() -> None:
    made = model()
    made.training_info.add()
    with pytest.raises(UnsupportedError, match="training_info"):
        check_model(made, None)


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "//host/share",
        "..\\secret",
        "C:/secret",
        "C:secret",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "w\0.bin",
        "w\n.bin",
        "",
        ".",
        "./w",
        "a//w",
        "w/",
        "*/_ORT_MEM_ADDR_/*",
        "w" * 4096,
    ],
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "m").mkdir()
    made = model(external("w", location), tensor("b", BIAS))
    with pytest.raises(UntrustedError):
        read_model(saved(made, tmp_path / "m"))


def link_file(folder: Path, target: Path) -> str:
    (folder / "w").symlink_to(target)
    return "w"


def link_parent(folder: Path, target: Path) -> str:
    (folder / "d").symlink_to(target.parent)
    return f"d/{target.name}"


def hard_link(folder: Path, target: Path) -> str:
    (folder / "w").hardlink_to(target)
    return "w"


def a_pipe(folder: Path, _: Path) -> str:
    os.mkfifo(folder / "w")
    return "w"


def a_folder(folder: Path, _: Path) -> str:
    (folder / "w").mkdir()
    return "w"


@pytest.mark.parametrize("attack", [link_file, link_parent, hard_link, a_pipe, a_folder])
def test_external_data_by_a_link_or_device_is_refused(tmp_path: Path, attack: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "m"
    folder.mkdir()
    path = saved(model(external("w", attack(folder, secret)), tensor("b", BIAS)), folder)
    with pytest.raises(UntrustedError):
        read_model(path)


def test_onnxruntime_alone_would_follow_the_hard_link(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    path = saved(
        model(external("w", hard_link(tmp_path / "m", tmp_path / "secret")), tensor("b", BIAS)), tmp_path / "m"
    )
    session = onnxruntime.InferenceSession(str(path))
    assert session.run(None, {"x": np.eye(1, 64, dtype=np.float32)})[0][0] == pytest.approx(WEIGHTS[0] + BIAS)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 4},
        {"offset": 1 << 62},
        {"offset": (1 << 63) - 1},
        {"offset": 1 << 63},
        {"offset": -4},
        {"offset": "0x10"},
        {"offset": "1e3"},
        {"length": WEIGHTS.nbytes - 4},
        {"length": WEIGHTS.nbytes + 4},
        {"length": 0},
        {"length": -1},
        {"length": (1 << 64) - 1},
    ],
)
def test_offset_and_length_that_contradict_file_or_shape_are_refused(tmp_path: Path, entries: Any) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    path = saved(model(external("w", "w", **entries), tensor("b", BIAS)), tmp_path)
    with pytest.raises(InvalidError):
        read_model(path)


def test_an_external_tensor_that_holds_bytes_as_well_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    both = external("w", "w")
    both.raw_data = WEIGHTS.tobytes()
    with pytest.raises(InvalidError, match="external and holds data itself"):
        read_model(saved(model(both, tensor("b", BIAS)), tmp_path))


def test_a_location_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    double = external("w", "w")
    double.external_data.add(key="location", value="../secret")
    with pytest.raises(InvalidError, match="given twice"):
        read_model(saved(model(double, tensor("b", BIAS)), tmp_path))


def test_overlapping_ranges_cannot_make_a_small_file_large(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    many = [external(f"w{i}", "w", (1, 32), offset=i) for i in range(100)]
    with pytest.raises(InvalidError, match="overlap"):
        read_model(saved(model(*many, nodes=[RELU]), tmp_path))


def test_one_range_may_be_shared_by_two_tensors(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes())
    read_model(saved(model(external("w", "w"), external("v", "w"), nodes=[RELU]), tmp_path))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"w\.bin"):
        read_model(saved(model(external("w", "w.bin"), tensor("b", BIAS)), tmp_path))


def test_external_data_without_a_folder_is_refused() -> None:
    with pytest.raises(InvalidError, match="came without a folder"):
        check_model(model(external("w", "w"), tensor("b", BIAS)), None)
