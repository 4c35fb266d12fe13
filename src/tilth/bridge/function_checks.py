"""Functions that a model defines: none calls itself, and all calls together stay within the limit on nodes."""

import graphlib
from collections import Counter
from collections.abc import Iterable

from onnx import FunctionProto, ModelProto, NodeProto

from tilth.bridge.model_walk import MAX_NODES, Body
from tilth.core.errors import InvalidError, UnsupportedError

_Key = tuple[str, str, str]


def check_functions(model: ModelProto, found: Iterable[Body]) -> None:
    """Check functions by what they grow to when every call is replaced by its body.

    Raises:
        InvalidError: a function is defined twice or calls itself, also by way of others.
        UnsupportedError: the model grows beyond 200,000 nodes; thirty small functions can stand for 2^30 nodes.
    """
    keys = [_key(function) for function in model.functions]
    if len(set(keys)) < len(keys):
        raise _bad("a function is defined twice", "a call would have two meanings")
    if not keys:
        return
    nodes: dict[_Key | None, Counter[_Key]] = {key: Counter() for key in (None, *keys)}
    for body in found:
        owner = body.function
        nodes[None if owner is None else _key(owner)].update(map(_called, body.nodes))
    _grow(nodes)


def _grow(nodes: dict[_Key | None, Counter[_Key]]) -> None:
    sizes: dict[_Key | None, int] = {}
    for key in _callees_first(nodes):
        sizes[key] = sum(count * (1 + sizes.get(called, 0)) for called, count in nodes[key].items())
        if sizes[key] > MAX_NODES:
            raise UnsupportedError(
                f"the model grows to more than {MAX_NODES:,} nodes when its functions are put in place",
                why="functions call functions many times over",
                hint="export the model without functions",
            )


def _callees_first(nodes: dict[_Key | None, Counter[_Key]]) -> list[_Key | None]:
    calls = {key: [called for called in counts if called in nodes] for key, counts in nodes.items()}
    try:
        return list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError:
        raise _bad("a function of the model calls itself", "engines put bodies in place of calls") from None


def _key(function: FunctionProto) -> _Key:
    return (function.domain, function.name, function.overload)


def _called(node: NodeProto) -> _Key:
    return (node.domain, node.op_type, node.overload)


def _bad(what: str, why: str) -> InvalidError:
    return InvalidError(what, why=why, hint="export the model again, without functions where possible")
