"""An engine without a vendor's library that computes affine graphs honestly, and misbehaves where it is told to.

It stands in for any engine in tests of what measures engines: `python -m tilth.testing.fake_engine COMMANDS REPLIES`
is a measuring child that knows no other. What to do wrong is said by the settings of a build.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from tilth.bridge.check_values import checked
from tilth.bridge.interface import read_signature
from tilth.bridge.measure.child import serve
from tilth.core.build import Build, Precision, Refusal, Scalar, Verdict
from tilth.core.certificate import Placement
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, TilthError, UnsupportedError
from tilth.core.graph import Graph
from tilth.ports.arrays import Array, Value, Values
from tilth.ports.engine import Engine, Option

NAME = "fake"
_OPS = frozenset({"MatMul", "Add", "Sub", "Mul", "Relu", "Identity", "Dropout"})
_KNOWN = frozenset({"load", "run", "after", "words", "slow_ms", "wrong_by", "placement", "threads"})
_HANG_S = 3600.0
_LEAK_BYTES = 64 << 20


class FakeEngine:
    """Computes `MatMul`, `Add`, `Sub`, `Mul`, `Relu`, `Identity` and `Dropout` (which drops nothing) in numpy.

    Settings of a build that make it misbehave: `load` and `run` are `abort`, `hang`, `refuse`, `raise`, or for `run`
    also `leak`, 64 MiB a call. `run` misbehaves after `after` good calls. `words` is printed to standard error
    first. `slow_ms` is slept in each call, `wrong_by` is added to every answer, `placement` is `elsewhere` or
    `nowhere`; `threads` is taken and ignored. `offers` are options beside the honest one.
    """

    name: str = NAME

    def __init__(self, version: str = "1.0", offers: Sequence[Option] = ()) -> None:
        self._version = version
        self._offers = tuple(offers)

    def version(self) -> str:
        """Return what it was made with."""
        return self._version

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        """Refuse other operators, other element types, and chips that are not CPUs."""
        found = []
        if not device.target.startswith("cpu-") and device.target != "null":
            found.append(Refusal(Verdict.NEVER, f"it computes in numpy, and `{device.id}` is a `{device.target}`"))
        foreign = sorted(set(graph.ops) - _OPS)
        if foreign:
            found.append(Refusal(Verdict.NEVER, f"it is made for affine graphs and does not know {foreign[0]}"))
        if set(graph.dtypes) - {"float32"}:
            found.append(Refusal(Verdict.NEVER, "it computes in float32 and nothing else"))
        return found

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        """Offer the honest default, then what it was made with."""
        honest = Option(Precision.FP32)
        return [option for option in (honest, *self._offers) if option.precision in precisions]

    def load(self, model: Path, build: Build, device: Device) -> "FakeSession":
        """Load an ONNX file.

        Raises:
            UnsupportedError: it is not an affine graph, or the settings say so.
        """
        unknown = set(build.settings) - _KNOWN
        if unknown:
            raise UnsupportedError("the fake engine cannot load this", why=f"it has no setting `{min(unknown)}`")
        if "load" in build.settings:
            _misbehave(str(build.settings["load"]), build.settings, UnsupportedError)
        try:
            proto = onnx.load(model)
            onnx.checker.check_model(proto)
            return self.opened(proto, build.settings)
        except Exception as error:  # protobuf's and onnx's own, of several classes
            raise UnsupportedError("the fake engine cannot load this graph", why=str(error)[:300]) from None

    def opened(self, model: onnx.ModelProto, settings: Mapping[str, Scalar]) -> "FakeSession":
        """Return a session; for subclasses that misbehave in other ways than settings can say."""
        return FakeSession(model, settings)


class FakeSession:
    """A loaded affine graph."""

    _kept: ClassVar[list[Array]] = []

    def __init__(self, model: onnx.ModelProto, settings: Mapping[str, Scalar]) -> None:
        self._graph, self._settings = model.graph, dict(settings)
        self._signature = read_signature(model, batched=False)
        self._weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._calls = 0

    def run(self, inputs: Values) -> dict[str, Value]:
        """Return the outputs by name, in graph order.

        Raises:
            InvalidError: the inputs are not the graph's, or the settings say so.
        """
        given = _all_arrays(checked(inputs, self._signature))
        self._calls += 1
        if "run" in self._settings and self._calls > int(self._settings.get("after", 0)):
            _misbehave(str(self._settings["run"]), self._settings, InvalidError)
        time.sleep(float(self._settings.get("slow_ms", 0)) / 1e3)
        return self._computed(given)

    def _computed(self, given: Mapping[str, Array]) -> dict[str, Value]:
        values = {**self._weights, **given}
        try:
            for node in self._graph.node:
                values[node.output[0]] = _evaluated(node.op_type, [values[name] for name in node.input])
        except ValueError as error:
            raise InvalidError("the fake engine refused to run", why=str(error)) from None
        wrong = np.float32(self._settings.get("wrong_by", 0.0))
        return {output.name: np.array(values[output.name] + wrong) for output in self._graph.output}

    def placement(self) -> Placement:
        """Return the nodes of the graph, all in numpy unless the settings lie."""
        count = len(self._graph.node)
        match self._settings.get("placement"):
            case "elsewhere":
                return Placement("numpy", {"numpy": 1, "elsewhere": count - 1}, (count - 1) / count, "the fake engine")
            case "nowhere":
                return Placement("numpy", {}, 0.0, "")
        return Placement("numpy", {"numpy": count}, 0.0, "the fake engine's own list of nodes")

    def rest(self, inputs: Values) -> None:
        """Keep what there is: numpy gives back by itself."""

    def close(self) -> None:
        """Drop the weights."""
        self._weights.clear()


def _evaluated(op: str, values: list[Array]) -> Array:
    match op:
        case "MatMul":
            return np.asarray(np.matmul(*values))
        case "Add":
            return np.asarray(values[0] + values[1])
        case "Sub":
            return np.asarray(values[0] - values[1])
        case "Mul":
            return np.asarray(values[0] * values[1])
        case "Relu":
            return np.maximum(values[0], np.float32(0))
    return values[0]


def _all_arrays(values: Mapping[str, Value]) -> dict[str, Array]:
    return {name: np.asarray(value) for name, value in values.items()}


def _misbehave(how: str, settings: Mapping[str, Scalar], refusal: type[TilthError]) -> None:
    if "words" in settings:
        sys.stderr.write(f"{settings['words']}\n")
        sys.stderr.flush()
    match how:
        case "abort":
            os.abort()
        case "hang":
            time.sleep(_HANG_S)
        case "leak":
            # Written to, for pages that nobody wrote do not count as resident.
            FakeSession._kept.append(np.ones(_LEAK_BYTES, np.uint8))
        case "raise":
            raise RuntimeError("the fake engine was told to raise")
        case _:
            raise refusal("the fake engine refuses", why="it was told to", hint="tell it something else")


def find_fake(name: str) -> Engine:
    """Return the fake engine.

    Raises:
        MissingError: another name is asked for.
    """
    if name != NAME:
        raise MissingError(f"there is no engine `{name}`", why=f"this child knows `{NAME}` alone")
    return FakeEngine()


def main(arguments: Sequence[str]) -> None:
    """Answer a measuring parent; the arguments are the numbers of its command and reply pipes."""
    commands, replies = map(int, arguments)
    with os.fdopen(commands, encoding="utf-8") as reading, os.fdopen(replies, "w", encoding="utf-8") as writing:
        serve(find_fake, reading, writing)


if __name__ == "__main__":
    main(sys.argv[1:])
