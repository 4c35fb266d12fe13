"""onnx's own evaluator: slow, in numpy, and the one that says what an operator means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilth.bridge.check_values import checked
from tilth.bridge.interface import read_signature
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.certificate import Placement
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.core.graph import Graph
from tilth.core.signature import Signature
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Option

#: It runs about a thousand times slower than an engine; above this it would only eat the search time.
_MOST_WEIGHTS_BYTES = 16 << 20


class ReferenceEngine:
    """Runs graphs with `onnx.reference`, as a second opinion on what the answers should be."""

    name = "reference"

    def version(self) -> str:
        """Return onnx's version.

        Raises:
            MissingError: onnx cannot be imported.
        """
        return str(_onnx().__version__)

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        """Refuse other chips, operators of other domains, and graphs that it would take minutes to run."""
        found = []
        if not device.target.startswith("cpu-") and device.target != "null":
            found.append(Refusal(Verdict.NEVER, f"it computes in numpy, and `{device.id}` is a `{device.target}`"))
        foreign = sorted({op for op in graph.ops if "::" in op and not op.startswith("ai.onnx.ml::")})
        if foreign:
            found.append(Refusal(Verdict.NEVER, f"onnx does not define {', '.join(foreign[:5])}"))
        if graph.weights_bytes > _MOST_WEIGHTS_BYTES:
            size = graph.weights_bytes >> 20
            found.append(Refusal(Verdict.NEVER, f"{size} MiB of weights would take minutes in numpy"))
        return found

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        """Offer the graph as it is, for when no other engine can: it is slower by orders and takes more memory."""
        return [Option(Precision.FP32, hopeful=False, instead_of="plain")] if Precision.FP32 in precisions else []

    def load(self, model: Path, build: Build, device: Device) -> "ReferenceSession":
        """Load an ONNX file.

        Raises:
            UnsupportedError: the evaluator has no kernel for an operator.
        """
        onnx = _onnx()
        try:
            from onnx.reference import ReferenceEvaluator

            proto = onnx.load(model)
            return ReferenceSession(ReferenceEvaluator(proto), read_signature(proto, batched=False))
        except Exception as error:
            raise UnsupportedError(
                f"onnx {onnx.__version__} has no reference for this graph",
                why=f"{type(error).__name__}: {error}"[:600],
                hint="run `tilth engines` to see the others",
            ) from None


class ReferenceSession:
    """A graph in onnx's evaluator."""

    def __init__(self, evaluator: Any, signature: Signature) -> None:
        self._evaluator, self._signature = evaluator, signature
        self._absent = {spec.name: None for spec in signature.inputs if spec.container == "optional"}

    def run(self, inputs: Values) -> dict[str, Value]:
        """Return the outputs by name.

        Raises:
            InvalidError: the values are not the graph's, which numpy may compute with all the same, or the evaluator
                fails on them.
        """
        import numpy as np

        given = self._absent | checked(inputs, self._signature)
        try:
            with np.errstate(all="ignore"):
                outputs = self._evaluator.run(None, given)
        except Exception as error:
            raise InvalidError(
                "onnx's reference evaluator failed",
                why=f"{type(error).__name__}: {error}"[:600],
                hint="compare the inputs with `tilth show`",
            ) from None
        return dict(zip(self._evaluator.output_names, map(_plain, outputs), strict=True))

    def placement(self) -> Placement:
        """Every node is evaluated in numpy by this process; the evaluator has nowhere else to go."""
        return Placement("numpy", {"numpy": len(self._evaluator.rt_nodes_)}, 0.0, "onnx ReferenceEvaluator nodes")

    def rest(self, inputs: Values) -> None:
        """Keep what there is: numpy gives back by itself."""

    def close(self) -> None:
        """Drop the graph."""
        self._evaluator = None


def _plain(value: Any) -> Any:
    import numpy as np

    if value is None or isinstance(value, list):
        return value
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingError("onnx cannot be imported", why=str(error), hint="run `pip install onnx`") from None
    return onnx
