"""onnxruntime on the CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilth.core.build import Build, Precision, Refusal, Scalar, Verdict
from tilth.core.certificate import Placement
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.core.graph import Graph
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Option

_ASSIGNMENT = "session.record_ep_graph_assignment_info"
_CPU = "CPUExecutionProvider"
#: Below this many weights a second thread costs more than it brings on every model measured so far, but it is
#: still measured; above `_LARGE_BYTES` one thread is not worth the search time.
_LARGE_BYTES = 16 << 20


class OrtEngine:
    """Runs any graph that onnxruntime loads, on the CPU that this process is on."""

    name = "ort"

    def version(self) -> str:
        """Return onnxruntime's version.

        Raises:
            MissingError: onnxruntime cannot be imported.
        """
        return str(_onnxruntime().__version__)

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        """Refuse what is not a CPU; what the operators need is known when a session is made."""
        if not device.target.startswith("cpu-"):
            return [Refusal(Verdict.TODO, f"this engine drives CPUs, and `{device.id}` is a `{device.target}`")]
        return []

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        """Offer the default, one thread, and threads that sleep instead of spin; int8 by the `int8` recipe."""
        found = []
        settings: list[dict[str, Scalar]] = [{}, {"threads": 1}]
        if device.cores > 1 and graph.weights_bytes > _LARGE_BYTES:
            settings = [{}, {"spin": False}]
        for recipe, precision in (("plain", Precision.FP32), ("lean", Precision.FP32), ("int8", Precision.INT8)):
            if precision in precisions:
                found += [Option(precision, recipe, one) for one in settings]
        return found

    def load(self, model: Path, build: Build, device: Device) -> "OrtSession":
        """Load an ONNX file.

        Raises:
            UnsupportedError: onnxruntime refuses the graph; its words are the reason.
        """
        ort = _onnxruntime()
        try:
            session = ort.InferenceSession(str(model), _options(ort, build.settings), providers=[_CPU])
        except Exception as error:
            # onnxruntime raises a dozen classes of its own, none of them with a common base.
            raise UnsupportedError(
                f"onnxruntime {ort.__version__} cannot load this graph",
                why=_words(error),
                hint="run `tilth engines` to see which engines are here; another may take it",
            ) from None
        return OrtSession(session)


class OrtSession:
    """A loaded onnxruntime session."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        # The public `run` re-checks names in Python and can fall back to another provider after a failure.
        # The inner one does neither, and takes 6 of 22 microseconds off a small model.
        self._run = session._sess.run

    def run(self, inputs: Values) -> dict[str, Value]:
        """Return the outputs by name, in graph order.

        Raises:
            InvalidError: onnxruntime refuses the values; its words are the reason.
        """
        try:
            return dict(zip(self._names, self._run(self._names, inputs, None), strict=True))
        except Exception as error:
            raise InvalidError(
                "onnxruntime refused to run",
                why=_words(error),
                hint="compare the inputs with `tilth show`",
            ) from None

    def placement(self) -> Placement:
        """Return onnxruntime's own record of which provider each node was assigned to."""
        nodes: dict[str, int] = {}
        for part in self._session.get_provider_graph_assignment_info():
            nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
        total = sum(nodes.values())
        elsewhere = total - nodes.get(_CPU, 0)
        share = elsewhere / total if total else 0.0
        return Placement(_CPU, nodes, share, "onnxruntime get_provider_graph_assignment_info")

    def close(self) -> None:
        """Drop the session and its thread pool."""
        self._session = self._run = None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(
            "onnxruntime cannot be imported",
            why=str(error),
            hint="run `pip install --force-reinstall onnxruntime`",
        ) from None
    return onnxruntime


def _options(ort: Any, settings: Mapping[str, Scalar]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(_ASSIGNMENT, "1")
    threads = settings.get("threads")
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if settings.get("spin") is False:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _words(error: Exception) -> str:
    text = str(error).strip().splitlines()
    words = next((line for line in text if line.strip()), type(error).__name__)
    # Its messages start with `[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : `.
    return words.rpartition("] : ")[2][:600] if words.startswith("[ONNXRuntimeError]") else words[:600]
