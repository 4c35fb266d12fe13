"""Recipes: named sequences of graph passes that make a variant of the source graph."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx

from tilth.bridge.int8 import Quantizer
from tilth.bridge.int8_mixed import keep_within
from tilth.bridge.lean import make_lean
from tilth.bridge.passes.fold_batchnorm import FoldBatchNorm
from tilth.bridge.passes.fold_constants import FoldConstants
from tilth.bridge.passes.quantize_dynamic import QuantizeDynamic
from tilth.ports.arrays import Values
from tilth.ports.engine import Session

#: Loads an ONNX file in the calibrating engine.
Load = Callable[[Path], Session]
#: Takes a model with its weights beside it in a folder, calibration inputs, and the rms relative error to aim for;
#: changes the model; returns places changed.
Recipe = Callable[[onnx.ModelProto, Path, Sequence[Values], Load, float], int]


def lean(model: onnx.ModelProto, folder: Path, inputs: Sequence[Values], load: Load, error: float) -> int:
    """Fewer, plainer operators with the same answers; no calibration."""
    return make_lean(model, folder)


def int8(model: onnx.ModelProto, folder: Path, inputs: Sequence[Values], load: Load, error: float) -> int:
    """All convolutions and products with constant weights in int8, with scales from calibration."""
    _prepare(model, folder)
    work = Quantizer(model, folder, inputs, load)
    if not work.sites:
        return 0
    model.CopyFrom(work.made(work.sites))
    return len(work.sites)


def int8_mixed(model: onnx.ModelProto, folder: Path, inputs: Sequence[Values], load: Load, error: float) -> int:
    """As much of `int8` as keeps the rms relative error on calibration inputs within `error`; 0 when that is all."""
    _prepare(model, folder)
    made = keep_within(error, model, folder, inputs, load)
    if made is None:
        return 0
    model.CopyFrom(made)
    return sum(node.op_type == "QuantizeLinear" for node in made.graph.node)


def int8_dynamic(model: onnx.ModelProto, folder: Path, inputs: Sequence[Values], load: Load, error: float) -> int:
    """Products and LSTMs in int8 with scales found at every call; convolutions stay float; no calibration."""
    _prepare(model, folder)
    return QuantizeDynamic(folder)(model)


def _prepare(model: onnx.ModelProto, folder: Path) -> None:
    FoldConstants(folder)(model)
    make_lean(model, folder)
    FoldBatchNorm(folder)(model)


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {"lean": lean, "int8": int8, "int8-mixed": int8_mixed, "int8-dynamic": int8_dynamic}
)
