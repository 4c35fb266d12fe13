"""The symbol of the batch, called `batch` wherever a model uses it."""

from collections.abc import Sequence
from typing import Any, cast

from onnx import ModelProto, ValueInfoProto

from tilth.bridge.model_walk import bodies
from tilth.core.signature import BATCH


def inputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that are not weights; before IR version 4 weights were listed among them."""
    weights = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in weights]


def dims_of(item: ValueInfoProto) -> list[int | str]:
    """Return sizes and symbols of a tensor, `""` for a dimension without either; empty for other kinds."""
    return [int(d.dim_value) if d.WhichOneof("value") == "dim_value" else str(d.dim_param) for d in _dims(item)]


def has_batch(model: ModelProto) -> bool:
    """Return whether some input has a dimension named `batch`."""
    return any(BATCH in dims_of(item) for item in inputs_of(model))


def name_batch(model: ModelProto) -> None:
    """Call the first symbol that leads an input `batch`, in every value of the model.

    Nothing changes when some input has a dimension of that name already: two symbols are never merged.
    """
    leads = [item for item in inputs_of(model) if isinstance((dims_of(item) or [1])[0], str)]
    if not leads or has_batch(model):
        return
    symbol = dims_of(leads[0])[0]
    if symbol == "":
        # One that nobody named stands for itself alone.
        leads[0].type.tensor_type.shape.dim[0].dim_param = BATCH
        return
    for body in bodies(model):
        graph = body.holder
        for item in (*getattr(graph, "input", ()), *getattr(graph, "output", ()), *graph.value_info):
            for dim in _dims(item):
                if dim.dim_param == symbol:
                    dim.dim_param = BATCH


def _dims(item: Any) -> Sequence[Any]:
    # A function's inputs and outputs are bare names.
    if isinstance(item, str) or not item.type.HasField("tensor_type"):
        return ()
    return cast(Sequence[Any], item.type.tensor_type.shape.dim)
