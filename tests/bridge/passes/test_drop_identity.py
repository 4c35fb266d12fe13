"""DropIdentity: what goes must do nothing, and names at the edge stay."""

import numpy as np
from onnx import TensorProto, helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.drop_identity import DropIdentity

N = helper.make_node
DROP = DropIdentity(FOLDER)


def test_a_chain_into_an_output_keeps_the_outputs_name() -> None:
    nodes = [N("Relu", ["x"], ["a"]), N("Identity", ["a"], ["b"]), N("Cast", ["b"], ["y"], to=TensorProto.FLOAT)]
    model = made(nodes, {"x": ["batch", 3]}, ["y"])
    assert changed(DROP, model, {"x": noise(2, 3)}, {"x": noise(0, 3)}, exact=True) == 2
    assert ops(model) == ["Relu"]
    assert model.graph.node[0].output[0] == "y"


def test_an_input_that_is_also_an_output_keeps_its_copy() -> None:
    untouched(DROP, made([N("Identity", ["x"], ["y"])], {"x": [2]}, ["y"]))


def test_two_outputs_of_one_value_keep_a_copy() -> None:
    nodes = [N("Relu", ["x"], ["y"]), N("Identity", ["y"], ["z"])]
    untouched(DROP, made(nodes, {"x": [2]}, ["y", "z"]))


def test_a_cast_that_changes_the_type_stays() -> None:
    nodes = [N("Cast", ["x"], ["a"], to=TensorProto.INT64), N("Cast", ["a"], ["y"], to=TensorProto.FLOAT)]
    model = made(nodes, {"x": [3]}, ["y"])
    untouched(DROP, model)


def test_times_one_goes_and_times_a_row_of_ones_that_widens_stays() -> None:
    nodes = [N("Mul", ["x", "one"], ["a"]), N("Mul", ["a", "ones"], ["y"])]
    model = made(nodes, {"x": ["batch", 1]}, ["y"], {"one": np.float32(1), "ones": np.ones((1, 4), np.float32)})
    assert changed(DROP, model, {"x": noise(2, 1)}, exact=True) == 1
    assert ops(model) == ["Mul"]


def test_one_over_x_is_not_x() -> None:
    untouched(DROP, made([N("Div", ["one", "x"], ["y"])], {"x": [2]}, ["y"], {"one": np.float32(1)}))


def test_a_default_that_a_caller_may_replace_is_not_a_one() -> None:
    model = made([N("Mul", ["x", "one"], ["y"])], {"x": [2], "one": []}, ["y"], {"one": np.float32(1)})
    untouched(DROP, model)


def test_a_name_that_a_subgraph_reads_stays() -> None:
    branch = helper.make_graph([N("Neg", ["a"], ["r"])], "b", [], [helper.make_empty_tensor_value_info("r")])
    nodes = [
        N("Relu", ["x"], ["c"]),
        N("Identity", ["c"], ["a"]),
        N("If", ["p"], ["y"], then_branch=branch, else_branch=branch),
    ]
    untouched(DROP, made(nodes, {"x": [2], "p": []}, ["y"], kinds={"p": TensorProto.BOOL}))


def test_a_resize_to_the_same_size_goes_at_any_batch() -> None:
    nodes = [
        N("Shape", ["x"], ["rows"], start=0, end=2),
        N("Concat", ["rows", "places"], ["sizes"], axis=0),
        N("Resize", ["x", "", "", "sizes"], ["a"], mode="linear"),
        N("Relu", ["a"], ["y"]),
    ]
    model = made(nodes, {"x": ["batch", 2, 4, 6]}, ["y"], {"places": np.array([4, 6])})
    assert changed(DROP, model, {"x": noise(1, 2, 4, 6)}, {"x": noise(3, 2, 4, 6)}, exact=True) == 1
    assert ops(model) == ["Relu"]


def test_a_resize_to_another_size_or_that_crops_stays() -> None:
    for places, mode in (([8, 6], "half_pixel"), ([4, 6], "tf_crop_and_resize")):
        nodes = [
            N("Shape", ["x"], ["rows"], start=0, end=2),
            N("Concat", ["rows", "places"], ["sizes"], axis=0),
            N("Resize", ["x", "roi", "", "sizes"], ["y"], mode="linear", coordinate_transformation_mode=mode),
        ]
        constants = {"places": np.array(places), "roi": np.array([0, 0, 0, 0, 1, 1, 0.5, 1], np.float32)}
        untouched(DROP, made(nodes, {"x": ["batch", 2, 4, 6]}, ["y"], constants))


def test_a_declared_shape_in_between_is_not_believed() -> None:
    nodes = [N("Reshape", ["x", "shape"], ["y"])]
    model = made(nodes, {"x": ["a", "b"]}, ["y"], {"shape": np.array([-1, 2])})
    lie = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])
    model.graph.output[0].CopyFrom(lie)
    untouched(DROP, model)
