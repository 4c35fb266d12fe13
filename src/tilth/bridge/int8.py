"""Turns a float graph into an int8 one: looks at activations, decides, rewrites."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from tilth.bridge.calibrate import Load, Spread, watch
from tilth.bridge.constants import Constants
from tilth.bridge.int8_plan import Plan, Site, find_sites, make_plan
from tilth.bridge.passes.quantize_static import QuantizeStatic
from tilth.bridge.scales import Scale
from tilth.bridge.window_mean import Window, window_of
from tilth.ports.arrays import Array, Values


@dataclass
class Seen:
    """What calibration saw: the spread of each tensor, and the mean input of each site."""

    spreads: dict[str, Spread]
    means: dict[str, Array]


def look(model: ModelProto, folder: Path, plan: Plan, inputs: Sequence[Values], load: Load) -> Seen:
    windows: dict[str, dict[Window, list[str]]] = {}
    constants = Constants(model.graph, folder)
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    for site in plan.sites.values():
        if site.op in ("Conv", "Gemm"):
            window = window_of(nodes[site.name], constants.shape(site.weight))
            windows.setdefault(site.data, {}).setdefault(window, []).append(site.name)
    seen = Seen({name: Spread() for name in plan.tensors}, {})
    counts: dict[str, int] = {}

    def visit(name: str, values: Array) -> None:
        seen.spreads[name].add(values)
        for window, sites in windows.get(name, {}).items():
            mean = window.mean(values)
            for site in sites:
                counts[site] = counts.get(site, 0) + 1
                old = seen.means.get(site, np.zeros_like(mean))
                seen.means[site] = old + (mean - old) / counts[site]

    watch(model, folder, plan.tensors, inputs, load, visit)
    return seen


def scales_of(plan: Plan, spreads: Mapping[str, Spread]) -> dict[str, Scale]:
    merged: dict[str, Spread] = {}
    for name in sorted(plan.tensors):
        merged.setdefault(plan.leader(name), Spread()).merge(spreads[name])
    return {name: spread.scale() for name, spread in merged.items()}
