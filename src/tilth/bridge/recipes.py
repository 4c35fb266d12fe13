"""Recipes: named sequences of graph passes that make a variant of the source graph."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import onnx

from tilth.ports.arrays import Values
from tilth.ports.engine import Session

#: Loads an ONNX file in the calibrating engine.
Load = Callable[[Path], Session]
#: Takes a model with its weights beside it in a folder, and calibration inputs; changes it; returns places changed.
Recipe = Callable[[onnx.ModelProto, Path, list[Values], Load], int]


def lean(model: onnx.ModelProto, folder: Path, inputs: list[Values], load: Load) -> int:
    """Fewer, plainer operators with the same answers; no calibration."""
    return 0


RECIPES: Mapping[str, Recipe] = MappingProxyType({"lean": lean})
