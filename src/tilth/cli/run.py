"""`tilth run`: a bundle's build on arrays from a file."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tilth import wiring
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.model import load_model
from tilth.bridge.value_file import read_values, write_values
from tilth.cli.output import AsJson, emit, table
from tilth.cli.plain import visible
from tilth.core.errors import InvalidError, UnavailableError
from tilth.core.signature import Signature
from tilth.ports.arrays import Value


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle that was built on this machine.")],
    inputs: Annotated[Path, typer.Option("--input", "-i", help="An .npz with one array per input.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .npz to write outputs to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a bundle on arrays from a file.

    The build is the one that `tilth build` chose for this machine; it runs only where its certificate says. Without
    --output the outputs are summarised and not kept.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    values = read_values(inputs)
    with open_bundle(bundle) as opened:
        named = _named(values, opened.manifest.signature)
        model = load_model(opened, wiring.this_device(), wiring.engines())
    with model:
        outputs = model.run(named)
    if output is not None:
        _write(output, outputs)
    rows = [_summary(name, value) for name, value in outputs.items()]
    data = {
        "build": model.build.label,
        "outputs": [dict(zip(("name", "dtype", "shape", "first"), row, strict=True)) for row in rows],
        "output_file": str(output) if output else None,
    }
    emit(data, as_json, lambda: _render(rows, model.build.label, output))


def _named(values: dict[str, Value], signature: Signature) -> dict[str, Value]:
    """Return inputs by name; the one unnamed array of `numpy.savez(path, x)` is the only input."""
    if len(signature.inputs) == 1 and list(values) == ["arr_0"]:
        return {signature.inputs[0].name: values["arr_0"]}
    outputs = {spec.name for spec in signature.outputs} - {spec.name for spec in signature.inputs}
    return {name: value for name, value in values.items() if name not in outputs}


def _write(path: Path, outputs: dict[str, Value]) -> None:
    if path.is_dir():
        raise InvalidError(f"`{path}` is a folder", why="outputs go into one file", hint="name a file, outputs.npz")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tilth-") as inside:
            made = Path(inside) / "outputs.npz"
            write_values(made, outputs)
            os.replace(made, path)
    except OSError as error:
        raise UnavailableError(
            f"`{path}` cannot be written", why=error.strerror or str(error), hint="free space, or write elsewhere"
        ) from None


def _summary(name: str, value: Value) -> tuple[str, str, Any, str]:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        first = " ".join(_number(item) for item in array.ravel()[:5]) + (" ..." if array.size > 5 else "")
        return name, str(array.dtype), list(array.shape), first
    return name, "none" if value is None else "sequence", [] if value is None else [len(value)], ""


def _number(item: Any) -> str:
    return f"{item:.6g}" if isinstance(item, float | np.floating) else str(item)


def _render(rows: list[tuple[str, str, Any, str]], label: str, output: Path | None) -> Table:
    made = table(("output", "dtype", "shape", "first values"), rows)
    kept = f", written to {output}" if output else "; add --output outputs.npz to keep them"
    made.caption = visible(label + kept)
    made.caption_justify = "left"
    return made
