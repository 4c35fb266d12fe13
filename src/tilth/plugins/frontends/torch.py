"""PyTorch modules and exported programs, by `torch.export` and PyTorch's own ONNX exporter."""

import contextlib
import copy
import inspect
import io
import logging
import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.agreement import compare
from tilth.bridge.batch_symbol import has_batch, name_batch
from tilth.bridge.refuse import check_not_refused
from tilth.core.build import Refusal, Verdict
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.ports.arrays import Values
from tilth.ports.frontend import Capture

OPSET = 18
PROOF_REL = 1e-3
_HINT = "export it yourself with `torch.onnx.export(..., dynamo=True)` and import the `.onnx` file"


@dataclass(frozen=True)
class _Call:
    """How a module is called: tensors by input name, and the values of the other arguments, which stay fixed."""

    positional: tuple[str, ...]
    tensors: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)

    def __call__(self, module: Any, tensors: Mapping[str, Any]) -> Any:
        given = {**self.fixed, **tensors}
        named = {name: value for name, value in given.items() if name not in self.positional}
        return module(*(given[name] for name in self.positional), **named)


class TorchFrontend:
    """An `nn.Module`, an `ExportedProgram`, or the path of a `.pt2` file.

    The sample is a tensor or array, a tuple of them, or tensors by argument name of `forward`; arguments that are
    numbers, texts or None become part of the graph. A module is captured in evaluation mode and left in the mode that
    it had. Loading a `.pt2` file may run code that it holds: do so for files that you trust, and never in a server.
    """

    name = "torch"
    #: Beyond this, weights go into files: a protobuf ends at 2 GiB.
    most_inline_bytes = 1 << 30

    def version(self) -> str:
        """Return PyTorch's version.

        Raises:
            MissingError: torch or onnxscript is not installed.
        """
        try:
            import onnxscript  # noqa: F401  the exporter is made of it
            import torch
        except (ImportError, OSError) as error:
            raise MissingError(
                "torch or onnxscript is not installed", why=str(error), hint="run `pip install 'tilth[torch]'`"
            ) from error
        return str(torch.__version__)

    def accepts(self, model: object) -> bool:
        """Return whether `model` is a module, an exported program, or a path that ends in `.pt2`."""
        if isinstance(model, str | Path):
            return Path(model).suffix.lower() == ".pt2"
        kinds = [(kind.__module__, kind.__name__) for kind in type(model).__mro__]
        return any(
            (module.startswith("torch.nn.") and name == "Module") or name == "ExportedProgram" for module, name in kinds
        )

    def refusals(self, model: object) -> list[Refusal]:
        """Return what the exporter does not take."""
        if isinstance(model, str | Path):
            return []
        if type(model).__name__ == "ExportedProgram":
            return _program_refusals(model)
        if any(kind.__module__.startswith("torch.jit") for kind in type(model).__mro__):
            return [Refusal(Verdict.UPSTREAM, "`torch.export` does not take TorchScript; give the module itself")]
        away = sorted({str(tensor.device) for tensor in _state(model) if tensor.device.type != "cpu"})
        return [Refusal(Verdict.TODO, f"weights are on `{item}`; call `.cpu()` first") for item in away]

    def capture(self, model: object, sample: Any | None) -> Capture:
        """Return the module as a graph, with the module itself as its source.

        Raises:
            InvalidError: there is no sample, or the module does not take it.
            UnsupportedError: the exporter refuses the module; its own words are the reason.
            MissingError: a package or the file is not there.
        """
        version = self.version()
        check_not_refused(self.name, model, self.refusals(model), hint=_HINT)
        if isinstance(model, str | Path):
            model = _loaded(Path(model))
            check_not_refused(self.name, model, self.refusals(model), hint=_HINT)
        if type(model).__name__ == "ExportedProgram":
            return _captured_program(model, sample, version, self.most_inline_bytes)
        return _captured_module(model, sample, version, self.most_inline_bytes)


def _state(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


# Modules.


def _captured_module(module: Any, sample: Any, version: str, limit: int) -> Capture:
    module, notes = _widened(module)
    call, more = _call(module, sample)
    notes += more
    with _evaluating(module):
        answer = _tried(module, call)
    names = [name for name, _ in _flat(answer)]
    run = _source(module, call)
    graph, more = _exported(module, call, names, run, limit)
    return Capture(
        model=graph.proto,
        run=graph.bound(run),
        framework="torch",
        version=version,
        sample={name: _array(tensor) for name, tensor in call.tensors.items()},
        weights_dir=graph.folder,
        batched=has_batch(graph.proto),
        notes=(*notes, *more),
    )


def _widened(module: Any) -> tuple[Any, list[str]]:
    """Return a float32 copy of a module of half precision: few CPUs compute in it, and numpy has no bfloat16."""
    dtypes = {str(tensor.dtype) for tensor in _state(module)}
    narrow = sorted(dtypes & {"torch.float16", "torch.bfloat16"})
    if not narrow:
        return module, []
    note = f"weights of {' and '.join(narrow)} are computed in float32, in the graph and for the golden outputs"
    return copy.deepcopy(module).float(), [note]


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put the module in evaluation mode, and every part of it back into its own mode afterwards."""
    import torch

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _call(module: Any, sample: Any) -> tuple[_Call, list[str]]:
    if sample is None:
        raise InvalidError(
            f"a {type(module).__name__} needs a sample",
            why="the shapes and dtypes of its inputs are not known without one",
            hint="give the arguments of `forward`: a tensor, a tuple, or tensors by name",
        )
    named, positional = _arguments(module, sample)
    double = any(tensor.dtype.itemsize == 8 and tensor.is_floating_point() for tensor in _state(module))
    tensors = {name: _tensor(name, value, double) for name, value in named.items() if _is_array(value)}
    if not tensors:
        raise InvalidError("the sample holds no tensor", hint="give at least one tensor or array")
    fixed = {name: value for name, value in named.items() if name not in tensors}
    notes = [f"argument `{name}` is fixed to {value!r:.40}" for name, value in fixed.items()]
    return _Call(positional, tensors, fixed), notes


def _arguments(module: Any, sample: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arguments by name, and the names of those that are passed by position."""
    known = inspect.signature(module.forward).parameters
    if isinstance(sample, Mapping):
        open_ended = any(item.kind is item.VAR_KEYWORD for item in known.values())
        strange = [name for name in sample if name not in known and not open_ended]
        if strange:
            raise InvalidError(
                f"`forward` has no argument {', '.join(f'`{name}`' for name in strange)}",
                why="it takes " + ", ".join(f"`{name}`" for name in known),
                hint="name the arrays of the sample after the arguments of `forward`",
            )
        only = tuple(n for n, item in known.items() if item.kind is item.POSITIONAL_ONLY and n in sample)
        return dict(sample), only
    parts = list(sample) if isinstance(sample, tuple | list) else [sample]
    plain = [name for name, item in known.items() if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    names = [plain[index] if index < len(plain) else f"input_{index}" for index in range(len(parts))]
    return dict(zip(names, parts, strict=True)), tuple(names)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _tensor(name: str, value: Any, double: bool) -> Any:
    import torch

    try:
        tensor = value.detach().clone() if hasattr(value, "detach") else torch.from_numpy(np.array(value))
    except TypeError as error:
        raise InvalidError(
            f"`{name}` in the sample is {value.dtype}", why=str(error)[:200], hint="give numbers"
        ) from error
    # numpy makes float64 by default; a module of float32 means float32.
    return tensor.float() if tensor.is_floating_point() and not double else tensor


def _tried(module: Any, call: _Call) -> Any:
    try:
        return call(module, call.tensors)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InvalidError(
            f"the {type(module).__name__} refuses the sample",
            why=_cleaned(str(error)),
            hint="give the arguments of `forward` with the shapes and dtypes of training",
        ) from error


def _flat(answer: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return every tensor in an answer with a name: keys and fields by their names, tuples by number."""
    import torch

    if answer is None:
        return []
    if isinstance(answer, torch.Tensor):
        return [(name or "output", answer)]
    if isinstance(answer, Mapping):
        parts = [(str(key), value) for key, value in answer.items()]
    elif is_dataclass(answer):
        parts = [(item.name, getattr(answer, item.name)) for item in fields(answer)]
    elif isinstance(answer, tuple | list):
        keys = getattr(answer, "_fields", None) or [f"output_{i}" if not name else str(i) for i in range(len(answer))]
        parts = list(zip(keys, answer, strict=True))
    else:
        raise UnsupportedError(
            f"`forward` returns a {type(answer).__name__}",
            why="a graph gives tensors",
            hint="return tensors, or tuples, dictionaries or dataclasses of them",
        )
    return [item for key, value in parts for item in _flat(value, f"{name}_{key}" if name else key)]


def _source(module: Any, call: _Call) -> Callable[[Values], Values]:
    def run(values: Values) -> Values:
        import torch

        tensors = {name: torch.from_numpy(np.array(values[name])) for name in call.tensors}
        with _evaluating(module):
            return {name: _array(tensor) for name, tensor in _flat(call(module, tensors))}

    return run


def _array(tensor: Any) -> Any:
    return tensor.detach().numpy().copy()


# The export.


class _Folder:
    """A folder that goes when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


@dataclass(frozen=True)
class _Graph:
    """A model, and the folder of its weights where they do not fit inside; the folder lives as long as `keep`."""

    proto: Any
    folder: Path | None = None
    keep: Any = None

    def bound(self, run: Callable[[Values], Values]) -> Callable[[Values], Values]:
        """Return `run`, which then keeps the folder alive."""
        keep = self.keep
        return run if keep is None else lambda values: (keep, run(values))[1]


def _exported(
    module: Any, call: _Call, names: list[str], run: Callable[[Values], Values], limit: int
) -> tuple[_Graph, list[str]]:
    try:
        graph = _graph(module, _repeated(call), names, limit, dynamic=True)
        objection = _objection(graph, call, run)
    except UnsupportedError as error:
        graph, objection = None, error.why
    if graph is not None and not objection:
        return graph, ["the batch is dynamic; the graph was run at batch sizes 1 and 3"]
    fixed = _graph(module, call, names, limit, dynamic=False)
    return fixed, [f"the batch is fixed to that of the sample: {objection:.300}"]


def _batch(call: _Call) -> int:
    return next((int(t.shape[0]) for t in call.tensors.values() if t.ndim), 0)


def _rows(call: _Call, count: int) -> dict[str, Any]:
    """Return the tensors with `count` rows, for those that have as many rows as the first."""
    import torch

    size = _batch(call)
    index = torch.arange(count) % max(size, 1)
    return {n: t[index] if t.ndim and t.shape[0] == size else t for n, t in call.tensors.items()}


def _repeated(call: _Call) -> _Call:
    # torch.export takes a size of 0 or 1 for a constant.
    return _Call(call.positional, _rows(call, max(2, _batch(call))), call.fixed)


def _objection(graph: _Graph, call: _Call, run: Callable[[Values], Values]) -> str:
    """Return why the graph does not follow the batch, or nothing when it does."""
    if not has_batch(graph.proto):
        return "no input has a dynamic first dimension"
    for count in (1, 3):
        values = {name: _array(tensor) for name, tensor in _rows(call, count).items()}
        try:
            found, wanted = _session(graph)(values), run(values)
        except Exception as error:  # whatever an engine or a module raises, the batch is not proven
            return f"batch size {count} fails: {_cleaned(str(error))}"
        error_rel = compare([(found, wanted)]).max_rel
        if not error_rel <= PROOF_REL:
            return f"at batch size {count} the graph differs by {error_rel:.2g} from the module"
    return ""


def _session(graph: _Graph) -> Callable[[Values], Values]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    origin: Any = graph.proto.SerializeToString() if graph.folder is None else str(graph.folder / "model.onnx")
    session = ort.InferenceSession(origin, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in graph.proto.graph.output]
    return lambda values: dict(zip(names, session.run(names, dict(values)), strict=True))


def _graph(module: Any, call: _Call, names: list[str], limit: int, *, dynamic: bool) -> _Graph:
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]
        """The module with tensors in order, and tensors in order out."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            given = dict(zip(call.tensors, tensors, strict=True))
            return tuple(tensor for _, tensor in _flat(call(self.inner, given)))

    size = _batch(call)
    moving = [{0: torch.export.Dim("batch")} if t.ndim and t.shape[0] == size else {} for t in call.tensors.values()]
    with _evaluating(module), _quiet(type(module).__name__):
        flat = Flat()
        flat.eval()
        shapes = (tuple(moving),) if dynamic else None
        program = torch.export.export(flat, tuple(call.tensors.values()), dynamic_shapes=shapes)
        return _written(program, list(call.tensors), names, limit)


def _written(program: Any, inputs: list[str], outputs: list[str], limit: int) -> _Graph:
    import torch

    made = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=inputs, output_names=outputs, verbose=False
    )
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if weights <= limit:
        graph = _Graph(made.model_proto)
    else:
        folder = Path(tempfile.mkdtemp(prefix="tilth-torch-"))
        made.save(folder / "model.onnx", external_data=True)
        graph = _Graph(_read_without_weights(folder / "model.onnx"), folder, _Folder(folder))
    name_batch(graph.proto)
    for node in graph.proto.graph.node:
        # Stack traces of the exporter: they name files of this machine.
        del node.metadata_props[:]
    del graph.proto.graph.metadata_props[:]
    return graph


def _read_without_weights(path: Path) -> Any:
    import onnx

    return onnx.load(path, load_external_data=False)


@contextlib.contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines out of sight; on failure they become the reason."""
    said = io.StringIO()
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the exporter lets through whatever the module raises under it
        words = _cleaned(str(error)) or _cleaned(said.getvalue()) or type(error).__name__
        raise UnsupportedError(f"PyTorch cannot export this {what}", why=words, hint=_HINT) from error
    finally:
        logging.disable(level)


def _cleaned(words: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", words)
    return " ".join(text.split())[:400]


# Exported programs.


def _loaded(path: Path) -> Any:
    import torch

    if not path.exists():
        raise MissingError(f"there is no file `{path}`", hint="save one with `torch.export.save(program, path)`")
    try:
        with _quiet("program"):
            return torch.export.load(path)
    except UnsupportedError as error:
        raise InvalidError(
            f"`{path}` is not an exported program",
            why=error.why,
            hint="save it with `torch.export.save(program, path)`",
        ) from error


def _program_refusals(program: Any) -> list[Refusal]:
    if any(str(tensor.dtype) == "torch.bfloat16" for tensor in program.state_dict.values()):
        return [Refusal(Verdict.TODO, "the program computes in bfloat16, which numpy cannot hold")]
    return []


def _captured_program(program: Any, sample: Any, version: str, limit: int) -> Capture:
    names = list(program.graph_signature.user_inputs)
    given = sample if sample is not None else _example(program)
    parts = [given[n] for n in names if n in given] if isinstance(given, Mapping) else list(_as_tuple(given))
    if len(parts) != len(names) or not all(_is_array(part) for part in parts):
        raise InvalidError(
            f"the sample has {len(parts)} tensors and the program {len(names)} inputs",
            why="inputs: " + ", ".join(f"`{name}`" for name in names),
            hint="give one tensor per input, by name or in order",
        )
    module = program.module()
    call = _Call(tuple(names), {n: _tensor(n, part, True) for n, part in zip(names, parts, strict=True)})
    run = _program_source(module, program, call)
    answer = _tried_program(run, call)
    with _quiet("program"):
        graph = _written(program, names, list(answer), limit)
    return Capture(
        model=graph.proto,
        run=graph.bound(run),
        framework="torch",
        version=version,
        sample={name: _array(tensor) for name, tensor in call.tensors.items()},
        weights_dir=graph.folder,
        batched=has_batch(graph.proto),
        notes=("the shapes are those that the program was exported with",),
    )


def _as_tuple(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def _example(program: Any) -> tuple[Any, ...]:
    if program.example_inputs is None:
        raise InvalidError(
            "the program brings no example inputs", why="it was saved without them", hint="give a sample"
        )
    args, named = program.example_inputs
    return (*args, *named.values())


def _program_source(module: Any, program: Any, call: _Call) -> Callable[[Values], Values]:
    import torch

    positional = len(program.example_inputs[0]) if program.example_inputs else len(call.tensors)
    keys = list(program.example_inputs[1]) if program.example_inputs else []

    def run(values: Values) -> Values:
        tensors = [torch.from_numpy(np.array(values[name])) for name in call.tensors]
        with torch.no_grad():
            answer = module(*tensors[:positional], **dict(zip(keys, tensors[positional:], strict=True)))
        return {name: _array(tensor) for name, tensor in _flat(answer)}

    return run


def _tried_program(run: Callable[[Values], Values], call: _Call) -> Values:
    try:
        return run({name: _array(tensor) for name, tensor in call.tensors.items()})
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InvalidError(
            "the program refuses the sample",
            why=_cleaned(str(error)),
            hint="give tensors of the shapes and dtypes that it was exported with",
        ) from error
