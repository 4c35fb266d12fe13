"""OpenVINO on the CPU."""

from collections.abc import Mapping, Sequence
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

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_BF16_ISA = frozenset({"avx512_bf16", "amx_bf16"})
#: Above this many weights one thread was never the fastest, and above the second it seldom is.
_LARGE_BYTES, _MIDDLE_BYTES = 16 << 20, 1 << 20
#: Inputs of at least this size are handed over by pointer; below it a copy is cheaper than making a tensor.
_SHARE_BYTES = 1 << 18


class OpenVinoEngine:
    """Runs graphs that OpenVINO's ONNX reader converts, on the CPU that this process is on."""

    name = "openvino"

    def version(self) -> str:
        """Return OpenVINO's version, without importing it.

        Raises:
            MissingError: openvino is not installed.
        """
        return installed_version("openvino", "run `pip install 'tilth[openvino]'`")

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        """Refuse other chips and classical operators, which its reader does not know."""
        found = []
        if not device.target.startswith("cpu-"):
            found.append(Refusal(Verdict.TODO, f"this engine drives CPUs, and `{device.id}` is a `{device.target}`"))
        classical = sorted(op for op in graph.ops if op.startswith("ai.onnx.ml::"))
        if classical:
            found.append(Refusal(Verdict.UPSTREAM, f"its ONNX reader has no rule for {', '.join(classical[:5])}"))
        if "string" in graph.dtypes:
            found.append(Refusal(Verdict.UPSTREAM, "its CPU plug-in does not compute on strings"))
        return found

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        """Offer its default, fixed shapes on all cores and on one, and lower precisions where the chip can.

        Products with scales found at every call run slower in it than in float, so `int8-dynamic` is not offered.
        """
        fixed: dict[str, Scalar] = {"shapes": "fixed"}
        bf16 = bool(_BF16_ISA & set(device.isa))
        small = device.cores > 1 and graph.weights_bytes <= _LARGE_BYTES
        few = graph.weights_bytes <= _MIDDLE_BYTES
        threads: list[tuple[dict[str, Scalar], bool]] = [({}, True)]
        if small:
            threads.append(({"threads": 1}, few))
        found = []
        if Precision.FP32 in precisions:
            found.append(Option(Precision.FP32))
            found += [Option(Precision.FP32, "lean", fixed | more, hopeful) for more, hopeful in threads]
        if Precision.BF16 in precisions and bf16:
            found += [Option(Precision.BF16, "lean", fixed | more, hopeful) for more, hopeful in threads]
        if Precision.INT8 in precisions:
            # What is not int8 runs in the fastest that the chip has. Where int8 alone errs too much, the rest may not.
            rest: dict[str, Scalar] = {"rest": "bf16"} if bf16 and Precision.BF16 in precisions else {}
            for more, hopeful in threads:
                found.append(Option(Precision.INT8, "int8", fixed | rest | more, hopeful))
                found.append(Option(Precision.INT8, "int8-mixed", fixed | more, hopeful, instead_of="int8"))
        return found

    def on_threads(self, build: Build, threads: int) -> Build:
        """Return the build with a setting for its threads."""
        return replace(build, settings={**build.settings, "threads": threads})

    def load(self, model: Path, build: Build, device: Device) -> "OpenVinoSession":
        """Compile an ONNX file.

        Raises:
            UnsupportedError: OpenVINO cannot convert or compile the graph; its words are the reason.
        """
        openvino = _openvino()
        core = openvino.Core()
        try:
            session = OpenVinoSession(openvino, core, core.read_model(model), build, *_names(model))
        except Exception as error:
            raise UnsupportedError(
                f"OpenVINO {self.version()} cannot compile this graph",
                why=_words(error),
                hint="another engine may",
            ) from None
        return session


class OpenVinoSession:
    """Compiled models, one per set of input shapes when shapes are fixed, else one for all.

    With `shapes=fixed` the first call with new shapes compiles for them; at most `_MOST_SHAPES` are kept, after
    which the graph is compiled once with open shapes for all others.
    """

    _MOST_SHAPES = 4

    def __init__(
        self, openvino: Any, core: Any, model: Any, build: Build, inputs: list[str], outputs: list[str]
    ) -> None:
        self._tensor = openvino.Tensor
        self._core, self._model = core, model
        self._config = _config(build)
        self._fixed = build.settings.get("shapes") == "fixed" and model.is_dynamic()
        self._inputs, self._names = _matched(model.inputs, inputs), _matched(model.outputs, outputs)
        self._requests: dict[tuple[tuple[int, ...], ...], _Request] = {}
        self._open: _Request | None = None if self._fixed else self._compiled(None)

    def _compiled(self, shapes: tuple[tuple[int, ...], ...] | None) -> "_Request":
        model = self._model
        if shapes is not None:
            self._check(shapes)
            model = self._model.clone()
            model.reshape(dict(enumerate(map(list, shapes))))
        return _Request(self._tensor, self._core.compile_model(model, "CPU", self._config), self._inputs, self._names)

    def _check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Refuse shapes that are not of the graph; `reshape` would change ranks and sizes to them."""
        for name, port, shape in zip(self._inputs, self._model.inputs, shapes, strict=True):
            declared = port.get_partial_shape()
            if not declared.compatible(type(declared)(list(shape))):
                raise ValueError(f"`{name}` has shape {list(shape)}, and the graph takes {declared}")

    def run(self, inputs: Values) -> dict[str, Value]:
        """Return the outputs by name, in graph order.

        Raises:
            InvalidError: OpenVINO refuses the values; its words are the reason.
        """
        try:
            return self._for(inputs).run(inputs)
        except Exception as error:
            raise InvalidError(
                "OpenVINO refused to run", why=_words(error), hint="compare the inputs with `tilth show`"
            ) from None

    def _for(self, inputs: Any) -> "_Request":
        if not self._fixed and self._open is not None:
            return self._open
        shapes = tuple([inputs[name].shape for name in self._inputs])
        found = self._requests.get(shapes)
        if found is not None:
            return found
        if len(self._requests) < self._MOST_SHAPES:
            found = self._requests[shapes] = self._compiled(shapes)
            return found
        if self._open is None:
            self._open = self._compiled(None)
        return self._open

    def placement(self) -> Placement:
        """Return the devices that OpenVINO reports, and each executed node's kernel from the runtime graph."""
        request = self._open or next(iter(self._requests.values()), None) or self._compiled(None)
        return request.placement()

    def rest(self, inputs: Values) -> None:
        """Drop the requests, and with them the memory of activations."""
        for request in (self._open, *self._requests.values()):
            if request is not None:
                request.rest()

    def close(self) -> None:
        """Drop all compiled models."""
        self._requests.clear()
        self._open = self._model = None


class _Request:
    def __init__(self, tensor: Any, compiled: Any, inputs: list[str], outputs: list[str]) -> None:
        self._tensor, self._compiled, self._inputs, self._names = tensor, compiled, inputs, outputs
        self._feeds: list[tuple[int, str, Any]] = []
        self._request: Any = None

    def _made(self) -> Any:
        request = self._request = self._compiled.create_infer_request()
        for index, name in enumerate(self._inputs):
            port = self._compiled.inputs[index]
            fixed = port.get_partial_shape().is_static
            view = request.get_input_tensor(index).data if fixed else None
            small = view is not None and view.nbytes < _SHARE_BYTES
            self._feeds.append((index, name, view if small else None))
        return request

    def rest(self) -> None:
        self._feeds, self._request = [], None
        self._compiled.release_memory()

    def run(self, inputs: Any) -> dict[str, Value]:
        request = self._request or self._made()
        shared = []
        for index, name, view in self._feeds:
            value = inputs[name]
            if view is not None:
                if value.shape != view.shape:
                    raise ValueError(f"`{name}` has shape {list(value.shape)}, not {list(view.shape)}")
                # `equiv` lets byte orders differ and nothing else.
                np.copyto(view, value, casting="equiv")
            else:
                # A tensor shares memory with arrays that it could write to, and with no others.
                tensor = self._tensor(np.require(value, requirements=["C", "W"]), shared_memory=True)
                request.set_input_tensor(index, tensor)
                shared.append(tensor)
        # Started and waited for, a request would cross to another thread and back.
        request.infer(share_outputs=True)
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._names)}

    def placement(self) -> Placement:
        kernels: dict[str, int] = {}
        total = 0
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            kind = str(info["layerType"].astype(str)) if "layerType" in info else node.get_type_name()
            if kind in ("Input", "Parameter", "Constant", "Output", "Result"):
                continue
            total += 1
            kernel = str(info["primitiveType"].astype(str)) if "primitiveType" in info else "unknown"
            kernels[kernel] = kernels.get(kernel, 0) + 1
        devices = list(self._compiled.get_property("EXECUTION_DEVICES"))
        share = 0.0 if devices == ["CPU"] else 1.0
        nodes = {"+".join(devices): total}
        return Placement("CPU", nodes, share, "openvino EXECUTION_DEVICES and runtime model", kernels)


def _config(build: Build) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if build.settings:
        # Without settings this is OpenVINO's own default, which others compare with.
        rest = "bf16" if build.precision is Precision.BF16 else str(build.settings.get("rest", "fp32"))
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[rest]}
        config |= _threads(build.settings)
    elif build.precision is Precision.FP32:
        config = {"INFERENCE_PRECISION_HINT": "f32"}
    return config


def _threads(settings: Mapping[str, Scalar]) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": settings["threads"]} if "threads" in settings else {}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingError(
            "openvino is not installed", why=str(error), hint="run `pip install 'tilth[openvino]'`"
        ) from None
    return openvino


def _names(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of inputs and outputs in graph order, weights left out."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [item.name for item in graph.input if item.name not in weights], [item.name for item in graph.output]


def _matched(ports: Sequence[Any], names: list[str]) -> list[str]:
    """Return the graph's name of each port.

    OpenVINO leaves out inputs that nothing reads, and calls an input like an output where the node between them falls
    away; ports keep their order.
    """
    own = [port.get_any_name() for port in ports]
    strange, absent = [name for name in own if name not in names], [name for name in names if name not in own]
    if not strange:
        return own
    if len(strange) != len(absent):
        raise ValueError(f"OpenVINO has {', '.join(own)} where the graph has {', '.join(names)}")
    given = dict(zip(strange, absent, strict=True))
    return [given.get(name, name) for name in own]


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't", "Summary:", "To facilitate")
    kept = [line.removeprefix("-- ") for line in lines if not line.startswith(noise)]
    return "; ".join(kept or lines or [type(error).__name__])[:600]
