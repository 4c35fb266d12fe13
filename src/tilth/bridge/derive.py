"""The child process that makes variants of a graph, so that their memory and crashes are not the caller's."""

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TextIO, overload

import onnx

from tilth.bridge.batch import row_of, rows
from tilth.bridge.measure.tether import tie_to_parent
from tilth.bridge.recipes import RECIPES
from tilth.bridge.skeleton import split
from tilth.bridge.value_file import read_values
from tilth.core.blob import bytes_of
from tilth.core.build import Build, Precision, Scalar
from tilth.core.device import Device
from tilth.core.errors import TilthError, UnsupportedError
from tilth.core.record import from_json, to_json
from tilth.core.signature import Signature
from tilth.ports.arrays import Values
from tilth.ports.engine import Engine, Session

#: Rows that calibrate activation ranges; more change the ranges little and cost search time.
_CALIBRATION_ROWS = 64
_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
#: Sessions that watch activations come and go; an arena would hold twice what each takes.
_CALM: Mapping[str, Scalar] = {"arena": False}


def serve(find_engine: Callable[[str], Engine], commands: TextIO, replies: TextIO) -> None:
    """Answer `derive` commands until the pipe closes."""
    tie_to_parent()
    _give_back_large_blocks()
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


def _give_back_large_blocks() -> None:
    """Have glibc return blocks of 16 MiB and more to the system when they are freed.

    It raises that threshold by itself whenever a larger block is freed, and so keeps activations of every session.
    Calibrating SegFormer-B0 takes 379 MB this way and 438 otherwise, in the same time (2 cores of an AMD EPYC,
    2026-11-24).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 16 << 20)


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
    single = _Rows([Path(path) for path in inputs], from_json(Signature, signature))
    chip = from_json(Device, device)
    calibrating = find_engine("ort")

    def load(path: Path) -> Session:
        return calibrating.load(path, Build("", chip.target, "ort", Precision.FP32, settings=_CALM), chip)

    changes = RECIPES[recipe](proto, source.parent, single, load, error)
    if not changes:
        return {"changes": 0}
    parts = split(proto, source.parent)
    for name, blob in parts.blobs.items():
        (folder / name).write_bytes(bytes_of(blob))
    (folder / "model.onnx").write_bytes(parts.skeleton)
    sizes = {name: (folder / name).stat().st_size for name in parts.blobs}
    return {"changes": changes, "graph": to_json(parts.graph), "blobs": sizes}


class _Rows(Sequence[Values]):
    """Single-row inputs, the rows of every case in turn, whole cases where the batch is fixed; read when asked for."""

    def __init__(self, paths: Sequence[Path], signature: Signature) -> None:
        self._paths, self._signature = paths, signature
        self._open: tuple[Path, dict[str, Any]] | None = None
        places = [(path, row) for path in paths for row in range(self._count(path))]
        self._places = places[:_CALIBRATION_ROWS] if signature.dynamic_batch else places

    def _count(self, path: Path) -> int:
        return rows(self._case(path), self._signature) if self._signature.dynamic_batch else 1

    def _case(self, path: Path) -> dict[str, Any]:
        if self._open is None or self._open[0] != path:
            self._open = path, read_values(path)
        return self._open[1]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Values: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Values]: ...
    def __getitem__(self, index: int | slice) -> Values | Sequence[Values]:
        if isinstance(index, slice):
            part = copy(self)
            part._places = self._places[index]
            return part
        path, row = self._places[index]
        case = self._case(path)
        return row_of(case, self._signature, row) if self._signature.dynamic_batch else case
