"""ONNX files and models in memory, weights inside or beside them; the source is onnxruntime without optimisation."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.agreement import compare
from tilth.bridge.batch_symbol import dims_of, has_batch, inputs_of, name_batch
from tilth.bridge.model_checks import check_model
from tilth.bridge.model_file import read_model
from tilth.bridge.model_walk import bodies
from tilth.bridge.refuse import check_not_refused
from tilth.core.build import Refusal, Verdict
from tilth.core.dtype import NAMES, NUMPY_DTYPES
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.ports.arrays import Array, Value, Values
from tilth.ports.frontend import Capture

_HINTS = (
    ("NOT_IMPLEMENTED", "an operator has no CPU kernel for these types; export with float32, or another operator"),
    ("opset", "export the model with an older opset, for example 18"),
    ("IR version", "export the model with an older version of onnx"),
    ("is not a registered function/op", "the operator needs a library of its own; export with standard operators"),
)


class OnnxFrontend:
    """An `.onnx` file, a folder that holds one, or an `onnx.ModelProto` whose weights are inside.

    The sample is an array (one input), a tuple in the order of the inputs, or arrays by input name. Arrays under the
    names of outputs are taken as recorded outputs of the framework that the model comes from.
    """

    name = "onnx"

    def version(self) -> str:
        """Return onnxruntime's version, for that is what gives the outputs.

        Raises:
            MissingError: onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            raise MissingError(
                "onnxruntime is not installed", why=str(error), hint="run `pip install onnxruntime`"
            ) from error
        return str(onnxruntime.__version__)

    def accepts(self, model: object) -> bool:
        """Return whether `model` is an ONNX model in memory, an `.onnx` path, or a folder that holds one."""
        if isinstance(model, str | Path):
            path = Path(model)
            return path.suffix.lower() == ".onnx" or (path.is_dir() and any(path.glob("*.onnx")))
        return type(model).__name__ == "ModelProto" and type(model).__module__.split(".")[0] == "onnx"

    def refusals(self, model: object) -> list[Refusal]:
        """Return which inputs and outputs cannot cross a bundle's edge; raises what reading the model raises."""
        return _refusals(_read(model)[0])

    def capture(self, model: object, sample: Any | None) -> Capture:
        """Return the model with its batch dimension named, and onnxruntime as its source.

        Raises:
            InvalidError: the model contradicts itself, or the sample does not fit it.
            UntrustedError: external data reaches outside its folder.
            UnsupportedError: a refusal, or onnxruntime cannot load the model; its own words are the reason.
            MissingError: the file or onnxruntime is not there.
        """
        version = self.version()
        proto, folder = _read(model)
        hint = "export without ZipMap (`zipmap=False`), with inputs and outputs of plain number types"
        check_not_refused(self.name, model, _refusals(proto), hint=hint)
        run = _source(proto, folder, model)
        name_batch(proto)
        given, recorded = _split(sample, proto)
        notes = [f"made by {proto.producer_name} {proto.producer_version}".strip()] if proto.producer_name else []
        notes.append(f"onnxruntime {version} without graph optimisation stands for the source")
        if given is not None and recorded is not None:
            found = run(given)
            error = compare([({name: found.get(name) for name in recorded}, recorded)]).max_rel
            notes.append(f"outputs were recorded; onnxruntime is within a relative error of {error:.2g} of them")
        return Capture(
            model=proto,
            run=run,
            framework=self.name,
            version=version,
            sample=given,
            weights_dir=folder,
            batched=has_batch(proto),
            notes=tuple(notes),
            recorded=recorded,
        )


def _read(model: Any) -> tuple[Any, Path | None]:
    if isinstance(model, str | Path):
        return read_model(Path(model))
    # What is checked, renamed and kept is a copy: the caller's model stays as it is.
    proto = type(model)()
    proto.CopyFrom(model)
    check_model(proto, None)
    return proto, None


def _refusals(proto: Any) -> list[Refusal]:
    found = []
    for item in [*inputs_of(proto), *proto.graph.output]:
        kind, element = _kind(item.type)
        if kind == "map_type":
            found.append(Refusal(Verdict.NEVER, f"`{item.name}` is a map, as ZipMap makes them"))
        elif NAMES.get(element) not in NUMPY_DTYPES:
            found.append(Refusal(Verdict.TODO, f"`{item.name}` has element type `{NAMES.get(element, element)}`"))
    return found


def _kind(kind: Any) -> tuple[str, int]:
    """Return the outermost kind that decides, a map above all, and the element type."""
    which = kind.WhichOneof("value") or ""
    if which in ("sequence_type", "optional_type"):
        inner, element = _kind(getattr(kind, which).elem_type)
        return (inner if inner == "map_type" else which), element
    return which, kind.tensor_type.elem_type if which == "tensor_type" else 0


def _source(proto: Any, folder: Path | None, model: Any) -> Callable[[Values], Values]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    external = any(held.tensor.data_location for body in bodies(proto) for held in body.tensors)
    origin: Any = str(_file(Path(model))) if external and folder is not None else proto.SerializeToString()
    try:
        session = ort.InferenceSession(origin, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class of their own
        raise _unloadable(str(error)) from error
    names = [item.name for item in proto.graph.output]

    def run(values: Values) -> Values:
        try:
            return dict(zip(names, session.run(names, dict(values)), strict=True))
        except Exception as error:
            raise InvalidError(
                "onnxruntime refuses the inputs",
                why=_cleaned(str(error)),
                hint="compare the shapes and values with what the model was made for",
            ) from error

    return run


def _file(path: Path) -> Path:
    return next(path.glob("*.onnx")) if path.is_dir() else path


def _unloadable(words: str) -> UnsupportedError:
    hint = next((hint for mark, hint in _HINTS if mark in words), "export the model again, with opset 18 and float32")
    return UnsupportedError("onnxruntime cannot load the model", why=_cleaned(words), hint=hint)


def _cleaned(words: str) -> str:
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) : ", "", words)
    text = re.sub(r"(/[\w.+-]+)+\.(cc|h|cpp):\d+ ", "", text)
    return " ".join(text.split())[:400]


def _split(sample: Any, proto: Any) -> tuple[dict[str, Value] | None, dict[str, Value] | None]:
    if sample is None:
        return None, None
    wanted = {item.name: item for item in inputs_of(proto)}
    answers = {item.name for item in proto.graph.output}
    named = _named(sample, list(wanted))
    unknown = [name for name in named if name not in wanted and name not in answers]
    absent = [name for name, item in wanted.items() if name not in named and _kind(item.type)[0] != "optional_type"]
    if unknown or absent:
        words = [f"`{name}` is not an input" for name in unknown] + [f"input `{name}` is not there" for name in absent]
        raise _misfit("the sample has the wrong names", "; ".join(words), list(wanted.values()))
    given = {name: _fitted(item, named.get(name)) for name, item in wanted.items()}
    recorded = {name: value for name, value in named.items() if name in answers and name not in wanted}
    return given, recorded or None


def _named(sample: Any, names: list[str]) -> dict[str, Value]:
    if isinstance(sample, Mapping):
        return dict(sample)
    parts = list(sample) if isinstance(sample, tuple | list) else [sample]
    if len(parts) != len(names):
        raise InvalidError(
            f"the sample has {len(parts)} arrays and the model {len(names)} inputs",
            why="inputs: " + ", ".join(f"`{name}`" for name in names),
            hint="give one array per input, by name",
        )
    return dict(zip(names, parts, strict=True))


def _fitted(item: Any, value: Value) -> Value:
    kind, element = _kind(item.type)
    if kind != "tensor_type" or value is None:
        return value
    array, dtype = np.asarray(value), NAMES[element]
    if dtype == "string":
        sound = array.dtype.kind in "OSUT"
        array = array.astype(object)
    else:
        sound = array.dtype.kind not in "OSUT" and np.can_cast(array.dtype, np.dtype(dtype), "same_kind")
        array = array.astype(dtype) if sound else array
    if not sound or not _shape_fits(array, item):
        found = f"{np.asarray(value).dtype}{list(np.shape(value))}"
        raise _misfit(f"`{item.name}` in the sample is {found}", "it does not fit the input", [item])
    return np.ascontiguousarray(array) if array.ndim else array


def _shape_fits(array: Array, item: Any) -> bool:
    if not item.type.tensor_type.HasField("shape"):
        return True
    dims = dims_of(item)
    return len(dims) == array.ndim and all(isinstance(d, str) or d == n for d, n in zip(dims, array.shape, strict=True))


def _misfit(what: str, why: str, items: list[Any]) -> InvalidError:
    shown = ", ".join(f"`{item.name}`: {NAMES.get(_kind(item.type)[1], '?')}{dims_of(item)}" for item in items[:8])
    return InvalidError(what, why=why, hint=f"the model takes {shown}")
