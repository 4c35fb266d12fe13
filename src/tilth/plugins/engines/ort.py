"""onnxruntime on the CPU."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilth.core.build import Build, Precision, Refusal, Scalar, Verdict
from tilth.core.certificate import Placement
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.core.graph import Graph
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Option, installed_version

_ASSIGNMENT = "session.record_ep_graph_assignment_info"
_SHRINK = "memory.enable_memory_arena_shrinkage"
_CPU = "CPUExecutionProvider"
#: Up to here one thread can win, and a second session for fixed shapes costs little; above it neither is worth
#: the search time.
_LARGE_BYTES = 16 << 20
#: Above this many one thread seldom wins.
_MIDDLE_BYTES = 1 << 20
#: Inputs and outputs of one call that are kept in buffers of ours. Above it a copy costs more than a binding saves.
_BOUND_BYTES = 1 << 18
_MOST_SHAPES = 4
#: Only with output scales does it run convolutions in int8; it alone has an LSTM that finds its scales at every call.
_INT8 = {"int8": "", "int8-mixed": "int8", "int8-dynamic": ""}

_Shapes = tuple[tuple[int, ...], ...]
#: Makes a session in which dimensions have the given sizes.
_Make = Callable[[Mapping[str, int]], Any]
_BoundCall = Callable[[Any], dict[str, Value] | None]
#: Stands for inputs that are not all arrays, or not all that the graph asks for.
_NO_SHAPES: _Shapes = ((-1,),)


class OrtEngine:
    """Runs any graph that onnxruntime loads, on the CPU that this process is on."""

    name = "ort"

    def version(self) -> str:
        """Return onnxruntime's version, without importing it.

        Raises:
            MissingError: onnxruntime is not installed.
        """
        return installed_version("onnxruntime", "run `pip install --force-reinstall onnxruntime`")

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        """Refuse what is not a CPU; what the operators need is known when a session is made."""
        if not device.target.startswith("cpu-"):
            return [Refusal(Verdict.TODO, f"this engine drives CPUs, and `{device.id}` is a `{device.target}`")]
        return []

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        """Offer the default, and fixed shapes on all cores and on one for small graphs; large ones as they are."""
        fixed: dict[str, Scalar] = {"shapes": "fixed"}
        small = graph.weights_bytes <= _LARGE_BYTES
        few = graph.weights_bytes <= _MIDDLE_BYTES
        settings: list[tuple[dict[str, Scalar], bool]] = [({}, True)]
        if small:
            settings = [(fixed, True), (fixed | {"threads": 1}, few)]
        found = []
        if Precision.FP32 in precisions:
            found.append(Option(Precision.FP32))
            found += [Option(Precision.FP32, "lean", one, hopeful) for one, hopeful in settings]
        if Precision.INT8 in precisions:
            found += [
                Option(Precision.INT8, recipe, one, hopeful, instead_of)
                for recipe, instead_of in _INT8.items()
                for one, hopeful in settings
            ]
        return found

    def on_threads(self, build: Build, threads: int) -> Build:
        """Return the build with a setting for its threads."""
        return replace(build, settings={**build.settings, "threads": threads})

    def load(self, model: Path, build: Build, device: Device) -> "OrtSession":
        """Load an ONNX file.

        Raises:
            UnsupportedError: onnxruntime refuses the graph; its words are the reason.
        """
        ort = _onnxruntime()
        fixed = build.settings.get("shapes") == "fixed"

        def make(dims: Mapping[str, int]) -> Any:
            return ort.InferenceSession(source, _options(ort, build.settings, dims), providers=[_CPU])

        try:
            source = _whole(model) if fixed else str(model)
            session = make({})
        except Exception as error:
            # onnxruntime raises a dozen classes of its own, none of them with a common base.
            raise UnsupportedError(
                f"onnxruntime {ort.__version__} cannot load this graph",
                why=_words(error),
                hint="run `tilth engines` to see which engines are here; another may take it",
            ) from None
        shrinking = ort.RunOptions()
        shrinking.add_run_config_entry(_SHRINK, "cpu:0")
        return OrtSession(session, ort.RunOptions(), shrinking, make if fixed else None)


class OrtSession:
    """A loaded onnxruntime session, and with `shapes=fixed` one more for each of the first sets of input shapes.

    Small numeric inputs and outputs go through buffers that stay bound to the session, which costs less than handing
    arrays over at each call. Everything else, and every refusal, takes onnxruntime's own way.
    """

    def __init__(self, session: Any, calm: Any, shrinking: Any, make: _Make | None = None) -> None:
        self._open, self._make = session, make
        self._inputs = [given.name for given in session.get_inputs()]
        self._names = [output.name for output in session.get_outputs()]
        self._dims = [list(given.shape) for given in session.get_inputs()]
        # A call without run options makes them anew.
        self._calm, self._shrinking = calm, shrinking
        self._latest = session
        self._sessions: dict[_Shapes, Any] = {}
        self._bound: dict[_Shapes, _BoundCall | None] = {}
        #: The call that is bound to the shapes and dtypes of the latest one.
        self.again: _BoundCall | None = None

    def run(self, inputs: Values) -> dict[str, Value]:
        """Return the outputs by name, in graph order.

        Raises:
            InvalidError: onnxruntime refuses the values; its words are the reason.
        """
        outputs = None if self.again is None else self.again(inputs)
        return self._slow(inputs) if outputs is None else outputs

    def _slow(self, inputs: Values) -> dict[str, Value]:
        shapes = self._shapes(inputs)
        bound = self._bound.get(shapes)
        if bound is not None and bound is not self.again:
            self.again = bound
            outputs = bound(inputs)
            if outputs is not None:
                return outputs
        return self._handed(inputs, shapes)

    def _shapes(self, inputs: Any) -> _Shapes:
        try:
            shapes = tuple([inputs[name].shape for name in self._inputs])
        except (KeyError, AttributeError):
            return _NO_SHAPES
        return shapes if len(inputs) == len(shapes) else _NO_SHAPES

    def _handed(self, inputs: Any, shapes: _Shapes) -> dict[str, Value]:
        session = self._session_for(shapes)
        try:
            # The public `run` re-checks names in Python and can fall back to another provider after a failure;
            # the inner one does neither.
            outputs = dict(zip(self._names, session._sess.run(self._names, inputs, self._calm), strict=True))
        except Exception as error:
            raise InvalidError(
                "onnxruntime refused to run",
                why=_words(error),
                hint="compare the inputs with `tilth show`",
            ) from None
        if shapes in self._bound:
            # The bound call failed where this one did not: an output's shape depends on values.
            self._bound[shapes] = self.again = None
        elif len(self._bound) < _MOST_SHAPES and shapes is not _NO_SHAPES and _bindable(inputs, outputs):
            self._bound[shapes] = self.again = _bound_call(session, self._calm, inputs, outputs)
        return outputs

    def _session_for(self, shapes: _Shapes) -> Any:
        if self._make is None or shapes is _NO_SHAPES:
            return self._open
        if shapes not in self._sessions and len(self._sessions) < _MOST_SHAPES:
            self._sessions[shapes] = self._specialised(self._make, shapes)
        return self._sessions.get(shapes, self._open)

    def _specialised(self, make: _Make, shapes: _Shapes) -> Any:
        dims = _sizes(self._dims, shapes)
        if not dims:
            return self._open
        try:
            self._latest = make(dims)
        except Exception:
            # Shapes that the graph refuses: the open session says so in words about the inputs.
            return self._open
        return self._latest

    def placement(self) -> Placement:
        """Return onnxruntime's own record of which provider each node was assigned to."""
        nodes: dict[str, int] = {}
        for part in self._latest.get_provider_graph_assignment_info():
            nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
        total = sum(nodes.values())
        elsewhere = total - nodes.get(_CPU, 0)
        share = elsewhere / total if total else 0.0
        return Placement(_CPU, nodes, share, "onnxruntime get_provider_graph_assignment_info")

    def rest(self, inputs: Values) -> None:
        """Run once more, after which onnxruntime gives back what its arena holds for activations."""
        session = self._session_for(self._shapes(inputs))
        # Refused where there is no arena to shrink, which is as well.
        with contextlib.suppress(Exception):
            session._sess.run(self._names, inputs, self._shrinking)

    def close(self) -> None:
        """Drop the sessions and their thread pools."""
        self.again = None
        self._bound.clear()
        self._sessions.clear()
        self._open = self._latest = self._make = None


def _bound_call(session: Any, calm: Any, inputs: Any, outputs: Any) -> _BoundCall:
    """Return a call that moves arrays of these shapes and dtypes through buffers bound to the session.

    It returns None for other inputs, and where onnxruntime refuses to fill the buffers.
    """
    fills = [(name, np.array(value, order="C"), value.shape, value.dtype) for name, value in inputs.items()]
    results = {name: np.array(value, order="C") for name, value in outputs.items()}
    bound = session.io_binding()
    for name, buffer, shape, dtype in fills:
        bound.bind_input(name, "cpu", 0, dtype, shape, buffer.ctypes.data)
    for name, buffer in results.items():
        bound.bind_output(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
    takes = [(name, buffer.copy) for name, buffer in results.items()]
    run, binding, count = session._sess.run_with_iobinding, bound._iobinding, len(fills)
    if count == len(takes) == 1:
        return _bound_single_call(run, binding, calm, fills[0], takes[0])

    def call(given: Any) -> dict[str, Value] | None:
        if len(given) != count:
            return None
        try:
            for name, buffer, shape, dtype in fills:
                value = given[name]
                if value.shape != shape or value.dtype != dtype:
                    return None
                buffer[...] = value
            run(binding, calm)
        except Exception:
            # A name is missing, or a value or an output's shape does not fit: the slow call finds out which.
            return None
        return {name: copy() for name, copy in takes}

    return call


def _bound_single_call(run: Any, binding: Any, calm: Any, fill: Any, take: Any) -> _BoundCall:
    """Return the bound call of one input and one output: without the loops, a tenth of the smallest models' time."""
    (name, buffer, shape, dtype), (output, copy) = fill, take

    def call(given: Any) -> dict[str, Value] | None:
        try:
            value = given[name]
            if value.shape != shape or value.dtype != dtype or len(given) != 1:
                return None
            buffer[...] = value
            run(binding, calm)
        except Exception:
            return None
        return {output: copy()}

    return call


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(
            "onnxruntime cannot be imported",
            why=str(error),
            hint="run `pip install --force-reinstall onnxruntime`",
        ) from None
    # Some of its builds report usage; what runs here is the user's own business.
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _whole(model: Path) -> bytes:
    """Return the model with its weights in it: fixed shapes are compiled after its files may be gone."""
    import onnx

    return bytes(onnx.load(model).SerializeToString())


def _bindable(inputs: Any, outputs: Any) -> bool:
    values = [*inputs.values(), *outputs.values()]
    return all(map(_is_plain, values)) and sum(value.nbytes for value in values) <= _BOUND_BYTES


def _is_plain(value: Any) -> bool:
    # An empty array has no address worth binding.
    numeric = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return numeric and value.dtype.isnative and value.size > 0


def _sizes(dims: Sequence[Sequence[Any]], shapes: _Shapes) -> dict[str, int]:
    """Return the size of every named dimension; none when ranks differ or a name has two sizes."""
    found: dict[str, int] = {}
    for names, shape in zip(dims, shapes, strict=True):
        if len(names) != len(shape):
            return {}
        for name, size in zip(names, shape, strict=True):
            if isinstance(name, str) and found.setdefault(name, size) != size:
                return {}
    return found


def _options(ort: Any, settings: Mapping[str, Scalar], dims: Mapping[str, int]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(_ASSIGNMENT, "1")
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)
    if settings.get("arena") is False:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    threads = settings.get("threads")
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def _words(error: Exception) -> str:
    text = str(error).strip().splitlines()
    words = next((line for line in text if line.strip()), type(error).__name__)
    # Its messages start with `[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : `.
    return words.rpartition("] : ")[2][:600] if words.startswith("[ONNXRuntimeError]") else words[:600]
