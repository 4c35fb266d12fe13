"""The child process that makes variants of a graph, so that their memory and crashes are not the caller's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import onnx

from tilth.bridge.batch import row_of, rows
from tilth.bridge.blob import bytes_of
from tilth.bridge.measure.tether import tie_to_parent
from tilth.bridge.recipes import RECIPES
from tilth.bridge.skeleton import split
from tilth.bridge.value_file import read_values
from tilth.core.build import Build, Precision
from tilth.core.device import Device
from tilth.core.errors import TilthError, UnsupportedError
from tilth.core.record import from_json, to_json
from tilth.core.signature import Signature
from tilth.ports.arrays import Values
from tilth.ports.engine import Engine, Session

#: Rows that calibrate activation ranges; more change the ranges little and cost search time.
_CALIBRATION_ROWS = 64


def serve(find_engine: Callable[[str], Engine], commands: TextIO, replies: TextIO) -> None:
    """Answer `derive` commands until the pipe closes."""
    tie_to_parent()
    for line in commands:
        request = json.loads(line)
        request.pop("do")
        try:
            reply = {"ok": _derive(find_engine, **request)}
        except TilthError as error:
            reply = {"error": error.as_json()}
        except Exception as error:
            reply = {"error": {"what": f"{type(error).__name__}: {str(error)[:1000]}", "why": "", "hint": ""}}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _derive(
    find_engine: Callable[[str], Engine],
    *,
    model: str,
    recipe: str,
    inputs: list[str],
    signature: dict[str, Any],
    device: dict[str, Any],
    error: float,
    out: str,
) -> dict[str, Any]:
    """Apply a recipe to the model file; write the variant into the empty folder `out` as an engine loads it.

    `error` is what a recipe that stops at an error aims for.

    The reply holds how many places changed, the variant's graph, and the size of each of its blobs in `out`.
    """
    if recipe not in RECIPES:
        raise UnsupportedError(f"there is no recipe `{recipe}`", why="known: " + ", ".join(RECIPES))
    source, folder = Path(model), Path(out)
    proto = onnx.load(source, load_external_data=False)
    single = _rows([read_values(Path(path)) for path in inputs], from_json(Signature, signature))
    chip = from_json(Device, device)
    calibrating = find_engine("ort")

    def load(path: Path) -> Session:
        return calibrating.load(path, Build("", chip.target, "ort", Precision.FP32), chip)

    changes = RECIPES[recipe](proto, source.parent, single, load, error)
    if not changes:
        return {"changes": 0}
    parts = split(proto, source.parent)
    for name, blob in parts.blobs.items():
        (folder / name).write_bytes(bytes_of(blob))
    (folder / "model.onnx").write_bytes(parts.skeleton)
    sizes = {name: (folder / name).stat().st_size for name in parts.blobs}
    return {"changes": changes, "graph": to_json(parts.graph), "blobs": sizes}


def _rows(cases: list[dict[str, Any]], signature: Signature) -> list[Values]:
    """Return single-row inputs, the rows of every case in turn; whole cases where the batch is fixed."""
    if not signature.dynamic_batch:
        return list(cases)
    found: list[Values] = []
    for case in cases:
        count = rows(case, signature)
        found += [row_of(case, signature, i) for i in range(min(count, _CALIBRATION_ROWS - len(found)))]
    return found
