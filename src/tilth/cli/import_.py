"""`tilth import`: from a trained model to a bundle."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tilth import wiring
from tilth.bridge.capture_child import Kind
from tilth.bridge.import_apart import Order, import_apart
from tilth.cli.output import AsJson, emit
from tilth.cli.plain import visible
from tilth.cli.progress import shown
from tilth.cli.quantity import seconds, share, size_bytes
from tilth.core.bundle import Manifest
from tilth.core.errors import InvalidError, MissingError, UntrustedError
from tilth.core.record import to_json
from tilth.core.version import VERSION

_CODE = {".joblib", ".pkl", ".pickle", ".pt2"}
_FOREIGN = {
    ".pt": "export it with torch.export to .pt2, or name a factory: `tilth import package.module:factory`",
    ".pth": "export it with torch.export to .pt2, or name a factory: `tilth import package.module:factory`",
    ".h5": "export it to ONNX with tf2onnx",
    ".keras": "export it to ONNX with tf2onnx",
    ".tflite": "export the original model to ONNX",
}


def command(
    model: Annotated[
        str, typer.Argument(help="An .onnx file or folder, a .joblib, .pkl or .pt2 file, or module:factory.")
    ],
    sample: Annotated[Path | None, typer.Option("--sample", help="An .npz with one array per input.")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The bundle to write: a .tilth file, or a folder with `/`.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="The bundle's name; the output's stem if not given.")] = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that a .joblib, .pkl or .pt2 file holds.")
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
    All of this happens in a child process.

    Raises:
        TilthError: the model is refused; nothing is written.
    """
    kind = _kind(model)
    if kind == "pickled" or Path(model).suffix in _CODE:
        _check_trust(model, trust, as_json)
    target = out or f"{_stem(model)}.tilth"
    order = Order(
        kind=kind,
        what=model,
        sample=str(sample) if sample else "",
        name=name or Path(target).stem,
        tolerance=share(tolerance) if tolerance else 0.0,
        nonfinite=nonfinite,
        version=VERSION,
    )
    device = wiring.this_device()
    with shown(as_json) as report:
        report("capturing", 0, 2, model)
        manifest = import_apart(
            wiring.worker_command("capture"),
            order,
            device,
            Path(target),
            folder=target.endswith("/"),
            timeout_s=seconds(timeout),
            memory_bytes=size_bytes(memory) if memory else int(device.memory_bytes * 0.8) or 1 << 62,
            done=lambda: report("writing", 1, 2, target),
        )
    emit({"bundle": target, "manifest": to_json(manifest)}, as_json, lambda: _render(manifest, target))


def _kind(model: str) -> Kind:
    path = Path(model)
    if path.suffix in _FOREIGN:
        raise InvalidError(
            f"`{model}` is not a kind of file that can be imported",
            why=f"a `{path.suffix}` file holds weights or code, not a graph",
            hint=_FOREIGN[path.suffix],
        )
    if path.exists() or ":" not in model:
        return "pickled" if path.suffix in _CODE - {".pt2"} else "file"
    return "factory"


def _stem(model: str) -> str:
    return model.rpartition(":")[2] if not Path(model).exists() and ":" in model else Path(model).stem


def _check_trust(model: str, trust: bool, as_json: bool) -> None:
    if not Path(model).exists():
        raise MissingError(f"there is no file `{model}`", hint="check the path")
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
