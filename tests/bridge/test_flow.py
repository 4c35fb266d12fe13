"""The flow of values: edits keep every value made once and before it is used, and touch nothing that others see."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilth.bridge.flow import Flow, is_op


def model(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ones(4, np.float32), "w"), numpy_helper.from_array(np.zeros(4, np.float32), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def ops(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


def node(op: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output])


def test_what_replaces_nodes_stands_where_the_last_of_them_was(tmp_path: Path) -> None:
    made = model(node("Mul", "x w", "m"), node("Relu", "x", "r"), node("Add", "m b", "a"), node("Add", "a r", "y"))
    flow = Flow(made, tmp_path)
    mul, _, add, last = flow.nodes
    flow.replace([mul, add], [node("Sub", "x b", "s"), node("Mul", "s w", "a")])
    assert not flow.here(mul) and not flow.here(add) and flow.here(last)
    flow.write()
    assert ops(made) == ["Relu", "Sub", "Mul", "Add"]
    assert [name for n in made.graph.node for name in n.output] == ["r", "s", "a", "y"], (
        "each is made before it is read"
    )


def test_what_nothing_uses_any_more_goes_with_its_weights(tmp_path: Path) -> None:
    made = model(node("Mul", "x w", "m"), node("Add", "m b", "a"), node("Neg", "a", "y"))
    flow = Flow(made, tmp_path)
    flow.replace([flow.nodes[2]], [node("Neg", "x", "y")])
    flow.write()
    assert ops(made) == ["Neg"] and not made.graph.initializer


@pytest.mark.parametrize("outputs", [("y",), ("y", "m")])
def test_a_value_is_somebodys_alone_only_when_the_caller_does_not_see_it(
    tmp_path: Path, outputs: tuple[str, ...]
) -> None:
    flow = Flow(model(node("Mul", "x w", "m"), node("Neg", "m", "y"), outputs=outputs), tmp_path)
    assert (flow.lone_user("m") is not None) is (outputs == ("y",))
    assert (flow.lone_maker("m", "Mul") is not None) is (outputs == ("y",))
    assert flow.maker("m", "Add") is None and flow.maker("x", "Mul") is None
    assert flow.lone_user("x") is flow.nodes[0] and flow.lone_user("y") is None


def branch(read: str) -> onnx.NodeProto:
    def body(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node("Neg", read, name)], name, [], [out])

    return helper.make_node("If", ["flag"], ["y"], then_branch=body("t"), else_branch=body("e"))


def test_a_value_that_a_subgraph_reads_keeps_its_name(tmp_path: Path) -> None:
    made = model(node("Identity", "x", "i"), node("IsNaN", "x", "flag"), branch("i"))
    flow = Flow(made, tmp_path)
    assert flow.lone_user("i") is None and flow.used_beside("i", set())
    assert not flow.bypass(flow.nodes[0])


def test_a_node_without_an_effect_goes_and_outer_names_stay(tmp_path: Path) -> None:
    made = model(node("Identity", "x", "i"), node("Relu", "i", "r"), node("Identity", "r", "y"))
    flow = Flow(made, tmp_path)
    assert flow.bypass(flow.nodes[0]) and flow.bypass(flow.nodes[2])
    flow.write()
    assert [(list(n.input), list(n.output)) for n in made.graph.node] == [(["x"], ["y"])]
    straight = model(node("Identity", "x", "y"))
    assert not Flow(straight, tmp_path).bypass(straight.graph.node[0]), "both names are the caller's"


def test_sizes_nobody_knows_have_names_of_their_own(tmp_path: Path) -> None:
    flow = Flow(model(node("Mul", "x w", "m"), node("NonZero", "m", "n"), node("Neg", "n", "y")), tmp_path)
    assert flow.types["m"] == (TensorProto.FLOAT, ("batch", 4))
    kind, dims = flow.types["n"]
    assert kind == TensorProto.INT64 and dims is not None and dims[0] == 2 and isinstance(dims[1], str)


def test_an_operator_of_another_domain_is_another_operator() -> None:
    foreign = helper.make_node("Gemm", ["x"], ["y"], domain="com.acme")
    assert not is_op(foreign, "Gemm") and is_op(foreign, "Gemm", domain="com.acme")
    assert is_op(helper.make_node("Gemm", ["x"], ["y"], domain="ai.onnx"), "Gemm")
