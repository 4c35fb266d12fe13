"""Names in an ONNX graph: each is made once, and what is read is made somewhere."""

from collections.abc import Iterable, Sequence

from onnx import FunctionProto, GraphProto

from tilth.bridge.model_walk import Body
from tilth.core.errors import InvalidError


def check_names(found: Sequence[Body]) -> None:
    """Check every body: single assignment, and no name that nothing makes. Order is left to the engines.

    An inner name may equal an outer one, as the branches of an `If` often do.

    Raises:
        InvalidError: a name is made twice, is empty where it may not be, or is made nowhere.
    """
    made: dict[int, set[str]] = {}
    for body in found:
        own = made[id(body)] = _made(body)
        outer = [made[id(item)] for item in _outer(body)]
        for node in body.nodes:
            for name in node.input:
                if name and name not in own and not any(name in scope for scope in outer):
                    raise _unmade(f"node `{node.name[:80] or node.op_type[:80]}` reads `{name[:80]}`")
        for name in _outputs(body.holder):
            if name not in own and not any(name in scope for scope in outer):
                raise _unmade(f"`{name[:80]}` is an output")
    _unique((value.name for value in found[0].holder.output), "outputs")


def _made(body: Body) -> set[str]:
    holder = body.holder
    if isinstance(holder, GraphProto):
        inputs = _unique((value.name for value in holder.input), "inputs")
        inputs |= _unique((tensor.name for tensor in holder.initializer), "initializers")
    else:
        inputs = _unique(holder.input, "inputs")
    outputs = _unique((name for node in body.nodes for name in node.output if name), "node outputs")
    both = inputs & outputs
    if both:
        raise _bad(f"`{min(both)[:80]}` is made twice", "it is an input or initializer and a node's output")
    return inputs | outputs


def _unique(names: Iterable[str], what: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise _bad(f"one of the {what} has an empty name", "values are told apart by name")
        if name in seen:
            raise _bad(f"`{name[:80]}` appears twice among the {what}", "a name is made once")
        seen.add(name)
    return seen


def _outer(body: Body) -> Iterable[Body]:
    while body.outer is not None:
        body = body.outer
        yield body


def _outputs(holder: GraphProto | FunctionProto) -> Iterable[str]:
    return (value.name for value in holder.output) if isinstance(holder, GraphProto) else holder.output


def _unmade(what: str) -> InvalidError:
    return _bad(what, "nothing makes it")


def _bad(what: str, why: str) -> InvalidError:
    return InvalidError(what, why=why, hint="export the model again; the graph contradicts itself")
