"""The signature: what a graph says of its edges, and what it does."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, TypeProto
from onnx import helper as h

from tilth.bridge.interface import fixed_batch, proven_outputs, read_signature
from tilth.core.errors import UnsupportedError
from tilth.core.signature import Signature, TensorSpec

F = TensorProto.FLOAT


def graph(inputs: list[Any], outputs: list[Any] | None = None, weights: tuple[str, ...] = ()) -> Any:
    initializers = [h.make_tensor(name, F, [1], [0.0]) for name in weights]
    nodes = [h.make_node("Identity", ["x"], ["y"])]
    return h.make_model(h.make_graph(nodes, "g", inputs, outputs or [], initializers))


def tensor(name: str, shape: Any, dtype: int = F) -> Any:
    return h.make_tensor_value_info(name, dtype, shape)


def value(name: str, kind: TypeProto) -> Any:
    return h.make_value_info(name, kind)


def test_weights_that_old_files_list_as_inputs_are_not_inputs() -> None:
    made = read_signature(graph([tensor("x", [1]), tensor("w", [1])], weights=("w",)), batched=True)
    assert [spec.name for spec in made.inputs] == ["x"]


def test_a_first_dimension_that_nobody_named_is_the_batch_only_when_it_may_vary() -> None:
    model = graph([tensor("x", [None, 3, None]), tensor("s", []), tensor("n", ["rows", 2])], [tensor("y", [None])])
    made = read_signature(model, batched=True)
    assert [spec.shape for spec in made.inputs] == [("batch", 3, "?"), (), ("rows", 2)]
    assert made.outputs[0].shape == ("?",)
    assert read_signature(model, batched=False).inputs[0].shape == ("?", 3, "?")


def test_a_rank_that_is_not_said_stays_open() -> None:
    assert read_signature(graph([tensor("x", None)]), batched=True).inputs[0].shape is None


def test_sequences_and_optionals_keep_their_container() -> None:
    element = h.make_tensor_type_proto(F, ["n"])
    kinds = {
        "s": h.make_sequence_type_proto(element),
        "o": h.make_optional_type_proto(element),
        "os": h.make_optional_type_proto(h.make_sequence_type_proto(element)),
    }
    made = read_signature(graph([value(name, kind) for name, kind in kinds.items()]), batched=False)
    assert [(spec.name, spec.container) for spec in made.inputs] == [
        ("s", "sequence"),
        ("o", "optional"),
        ("os", "optional"),
    ]
    assert {spec.shape for spec in made.inputs} == {("n",)}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (h.make_map_type_proto(TensorProto.INT64, h.make_tensor_type_proto(F, None)), "a map"),
        (h.make_sparse_tensor_type_proto(F, [2]), "sparse"),
        (h.make_sequence_type_proto(h.make_sequence_type_proto(h.make_tensor_type_proto(F, None))), "nested"),
        (h.make_tensor_type_proto(TensorProto.BFLOAT16, [2]), "`bfloat16`"),
        (h.make_tensor_type_proto(TensorProto.COMPLEX64, [2]), "`complex64`"),
        (h.make_tensor_type_proto(TensorProto.INT4, [2]), "`int4`"),
        (h.make_tensor_type_proto(0, [2]), "`undefined`"),
        (TypeProto(), "a map"),
    ],
)
def test_what_no_array_can_hold_is_refused(kind: TypeProto, why: str) -> None:
    with pytest.raises(UnsupportedError, match="`x` cannot cross") as caught:
        read_signature(graph([value("x", kind)]), batched=True)
    assert why in caught.value.why


def seen(*shapes: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(rows, {"y": np.zeros(shape)}) for rows, shape in shapes]


def proven(declared: Any, *shapes: Any, inputs: Any = ("batch", 3)) -> Any:
    signature = Signature((TensorSpec("x", "float32", inputs),), (TensorSpec("y", "float32", declared),))
    return proven_outputs(signature, seen(*shapes)).outputs[0].shape


def test_a_dimension_that_follows_the_rows_is_the_batch() -> None:
    assert proven(("?", "?"), (4, (4, 7)), (1, (1, 7))) == ("batch", 7)
    assert proven((4, 7), (4, (4, 7)), (1, (1, 7))) == ("batch", 7), "whatever the graph declared"
    assert proven(None, (4, (4, 7)), (1, (1, 7))) == ("batch", 7)


def test_a_dimension_that_changes_otherwise_stays_open() -> None:
    assert proven(("?", 7), (4, (8, 7)), (1, (2, 7))) == ("?", 7)


def test_a_name_that_the_graph_gives_is_kept_although_the_sample_has_one_size() -> None:
    assert proven(("batch", "seq"), (4, (4, 16)), (1, (1, 16)), inputs=("batch", "seq")) == ("batch", "seq")


def test_an_open_dimension_is_not_settled_while_an_input_has_one_that_was_not_varied() -> None:
    assert proven(("batch", "?"), (4, (4, 16)), (1, (1, 16)), inputs=("batch", "?")) == ("batch", "?")
    assert proven(("batch", "?"), (4, (4, 16)), (1, (1, 16)), inputs=("batch", 16)) == ("batch", 16)


def test_one_sight_proves_what_was_declared_and_no_batch() -> None:
    assert proven((3, "batch", "?", "n"), (3, (3, 4, 5, 6))) == (3, 4, "?", "n")


def test_a_rank_that_changes_or_a_missing_output_leaves_the_declaration() -> None:
    assert proven(("batch", 7), (4, (4, 7)), (1, (7,))) == ("batch", 7)
    signature = Signature((), (TensorSpec("y", "float32", ("n",)),))
    assert proven_outputs(signature, [(1, {})]).outputs[0].shape == ("n",)


def test_a_batch_that_cannot_vary_becomes_its_size_everywhere() -> None:
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "n")), TensorSpec("z", "float32", None)),
        (TensorSpec("y", "float32", ("batch",)),),
    )
    made = fixed_batch(signature, 4)
    assert made.inputs[0].shape == (4, "n") and made.inputs[1].shape is None and made.outputs[0].shape == (4,)
    assert not made.dynamic_batch
