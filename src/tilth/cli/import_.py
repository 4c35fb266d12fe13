"""`tilth import`: from a trained model to a bundle."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tilth import wiring
from tilth.bridge.capture_child import Kind
from tilth.bridge.import_apart import Order, import_apart
from tilth.cli.local import Local
from tilth.cli.output import AsJson, emit
from tilth.cli.plain import visible
from tilth.cli.progress import shown
from tilth.cli.quantity import seconds, share, size_bytes
from tilth.core.bundle import Manifest
from tilth.core.errors import InvalidError, MissingError, UntrustedError
from tilth.core.record import to_json
from tilth.core.version import VERSION

_CODE = {".joblib", ".pkl", ".pickle", ".pt2", ".skops"}
_SAVED = {".lgb", ".ubj", ".xgb"}
_FOREIGN = {
    ".pt": "export it with torch.export to .pt2, or name a factory: `tilth import package.module:factory`",
    ".pth": "export it with torch.export to .pt2, or name a factory: `tilth import package.module:factory`",
    ".h5": "export it to ONNX with tf2onnx",
    ".keras": "export it to ONNX with tf2onnx",
    ".tflite": "export the original model to ONNX",
}


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file or folder, a .joblib, .pkl, .skops, .pt2, .lgb or .ubj file, module:factory, "
            "or mlflow:RUN/NAME."
        ),
    ],
    sample: Annotated[Path | None, typer.Option("--sample", help="An .npz with one array per input.")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The bundle to write: a .tilth file, or a folder with `/`.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="The bundle's name; the output's stem if not given.")] = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that a .joblib, .pkl, .skops or .pt2 file holds.")
    ] = False,
    tolerance: Annotated[str, typer.Option("--tolerance", help="Accept this rms relative error, such as 1%.")] = "",
    nonfinite: Annotated[
        bool, typer.Option("--nonfinite", help="Accept NaN and infinities as golden outputs.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="Longest time that capturing may take.")] = "10m",
    memory: Annotated[str, typer.Option("--memory", help="Most memory that capturing may take.")] = "",
    as_json: AsJson = False,
) -> None:
    """Turn a trained model into a bundle.

    The graph is captured with its weights, its inputs and outputs, and a golden set: sample inputs with the outputs
    that the source framework itself gives for them. An ONNX file needs no sample, one is made from its inputs then.
    All of this happens in a child process. A model that was logged at a tracking server is named by its run, which the
    bundle notes for `tilth push`.

    Raises:
        TilthError: the model is refused; nothing is written.
    """
    most_rms = share(tolerance) if tolerance else 0.0
    limits = (seconds(timeout), size_bytes(memory) if memory else 0)
    with _local(model, trust, as_json) as found:
        target = out or f"{found.stem}.tilth"
        given = sample or found.sample
        order = Order(
            kind=_kind(found.what),
            what=found.what,
            sample=str(given) if given else "",
            name=name or Path(target).stem,
            tolerance=most_rms,
            nonfinite=nonfinite,
            version=VERSION,
        )
        manifest = _imported(order, model, target, limits, found.notes, as_json)
    emit({"bundle": target, "manifest": to_json(manifest)}, as_json, lambda: _render(manifest, target))


def _imported(
    order: Order, shown_as: str, target: str, limits: tuple[float, int], notes: Mapping[str, str], as_json: bool
) -> Manifest:
    device = wiring.this_device()
    with shown(as_json) as report:
        report("capturing", 0, 2, shown_as)
        return import_apart(
            wiring.worker_command("capture"),
            order,
            device,
            Path(target),
            folder=target.endswith("/"),
            timeout_s=limits[0],
            memory_bytes=limits[1] or int(device.memory_bytes * 0.8) or 1 << 62,
            done=lambda: report("writing", 1, 2, target),
            notes=notes,
        )


@contextlib.contextmanager
def _local(model: str, trust: bool, as_json: bool) -> Iterator[Local]:
    """Yield what is to be imported once it is here, and trusted where it is code."""
    if any(tracker.named(model) for tracker in wiring.trackers()):
        try:
            fetched = wiring.load("tilth.cli.tracked:fetched")
        except ModuleNotFoundError as error:
            raise MissingError(
                "a tracking server cannot be asked", why=str(error), hint="pip install 'tilth[client]'"
            ) from None
        with fetched(model, lambda what: _check_trust(what, trust, as_json), as_json) as found:
            yield found
        return
    if _kind(model) == "pickled" or Path(model).suffix in _CODE:
        if not Path(model).exists():
            raise MissingError(f"there is no file `{model}`", hint="check the path")
        _check_trust(model, trust, as_json)
    yield Local(model, _stem(model))


def _kind(model: str) -> Kind:
    path = Path(model)
    if path.suffix in _FOREIGN:
        raise InvalidError(
            f"`{model}` is not a kind of file that can be imported",
            why=f"a `{path.suffix}` file holds weights or code, not a graph",
            hint=_FOREIGN[path.suffix],
        )
    if path.exists() or ":" not in model:
        if path.suffix in _SAVED:
            return "saved"
        return "pickled" if path.suffix in _CODE - {".pt2"} else "file"
    return "factory"


def _stem(model: str) -> str:
    return model.rpartition(":")[2] if not Path(model).exists() and ":" in model else Path(model).stem


def _check_trust(model: str, trust: bool, as_json: bool) -> None:
    if trust:
        return
    if not as_json and sys.stdin.isatty() and sys.stderr.isatty():
        typer.echo(f"`{visible(model)}` is a program: opening it runs whatever it holds.", err=True)
        if typer.confirm("Do you trust where it came from?", default=False, err=True):
            return
    raise UntrustedError(
        f"`{model}` is not opened",
        why=f"opening a `{Path(model).suffix}` file runs whatever code it holds",
        hint="add --trust if you made it, or export the model to ONNX where it was trained",
    )


def _render(manifest: Manifest, target: str) -> RenderableType:
    graph = manifest.graph
    lines = [
        f"{target}  from {manifest.source.framework} {manifest.source.version}",
        f"  graph   {graph.digest[:12]}  {graph.nodes} nodes, {graph.weights_bytes / 1e6:.3g} MB of weights",
        *(f"  input   {spec}" for spec in manifest.signature.inputs),
        *(f"  output  {spec}" for spec in manifest.signature.outputs),
        f"  golden  {manifest.golden.origin} sample, {manifest.notes.get('import', '')}",
        *(f"  note    {note}" for note in manifest.source.notes),
        f"next: tilth build {target}",
    ]
    return Group(*(Text(visible(line)) for line in lines))
