"""Turns a float graph into an int8 one: looks at activations, decides, rewrites."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto

from tilth.bridge.calibrate import Load, Spread, sizes_of, watch
from tilth.bridge.constants import Constants
from tilth.bridge.int8_plan import Plan, Site, find_sites, make_plan, read_by_nobody
from tilth.bridge.passes.quantize_static import QuantizeStatic, check_opset
from tilth.bridge.scales import Scale
from tilth.bridge.window_mean import Window, window_of
from tilth.ports.arrays import Array, Values

#: A node with fewer output channels takes too small a share of the time to pay for rounding its input.
_LEAST_CHANNELS = 9
#: A convolution between float nodes pays for rounding its output when it does at least this share of all products.
_LEAST_SHARE = 0.04


class Quantizer:
    """Makes int8 versions of one model; every tensor is looked at once, when a version first needs it.

    `sites` are the nodes for which int8 pays, in graph order, `products` how many products each does for one row.
    The model is read, never written.
    """

    def __init__(self, model: ModelProto, folder: Path, inputs: Sequence[Values], load: Load) -> None:
        """Take the float model, the folder of its external weights, and calibration inputs, one row each.

        Raises:
            UnsupportedError: the model's operator set is too old.
        """
        self._model, self._folder, self._inputs, self._load = model, folder, inputs, load
        self._constants = Constants(model.graph, folder)
        found = find_sites(model.graph, self._constants) if inputs else []
        if found:
            check_opset(model)
        self.products = self._count(found)
        self.sites = self._paying(found)
        self._windows = self._find_windows()
        self._spreads: dict[str, Spread] = {}
        self._means: dict[str, Array] = {}

    def made(self, sites: Collection[Site]) -> ModelProto:
        """Return a copy of the model in which `sites`, and what they allow, run in int8.

        Raises:
            InvalidError: an activation or a weight is NaN or infinite.
        """
        plan = make_plan(self._model.graph, sites, self._constants)
        self._look(plan)
        copy = ModelProto()
        copy.CopyFrom(self._model)
        QuantizeStatic(self._folder, plan, self._scales(plan), self._means)(copy)
        return copy

    def _count(self, sites: Sequence[Site]) -> dict[str, int]:
        if not sites:
            return {}
        sizes = sizes_of(self._model, self._folder, [site.name for site in sites], self._inputs[0], self._load)
        shapes = {site.name: self._constants.shape(site.weight) for site in sites}
        per_output = {site.name: int(np.prod(shapes[site.name])) // shapes[site.name][site.axis] for site in sites}
        return {name: size * per_output[name] for name, size in sizes.items()}

    def _paying(self, sites: Sequence[Site]) -> list[Site]:
        least = _LEAST_SHARE * sum(self.products.values())
        kept = [site for site in sites if self._constants.shape(site.weight)[site.axis] >= _LEAST_CHANNELS]
        while True:
            alone = read_by_nobody(self._model.graph, make_plan(self._model.graph, kept, self._constants))
            left = [site for site in kept if site.name not in alone or self.products[site.name] >= least]
            if len(left) == len(kept):
                return left
            # Without it, one before it may stand between float nodes.
            kept = left

    def _find_windows(self) -> dict[str, dict[Window, list[str]]]:
        """Return, for each input of sites that have a bias to correct, how they slide over it."""
        nodes = {node.output[0]: node for node in self._model.graph.node if node.output}
        found: dict[str, dict[Window, list[str]]] = {}
        for site in self.sites:
            window = window_of(nodes[site.name], self._constants.shape(site.weight))
            if window is not None:
                found.setdefault(site.data, {}).setdefault(window, []).append(site.name)
        return found

    def _look(self, plan: Plan) -> None:
        new = plan.tensors - self._spreads.keys()
        spreads = {name: Spread() for name in new}
        rows = dict.fromkeys(new, 0)

        def visit(name: str, values: Array) -> None:
            spreads[name].add(values)
            rows[name] += 1
            for window, sites in self._windows.get(name, {}).items():
                mean = window.mean(values)
                for site in sites:
                    before = self._means.get(site, np.zeros_like(mean))
                    self._means[site] = before + (mean - before) / rows[name]

        watch(self._model, self._folder, new, self._inputs, self._load, visit)
        self._spreads |= spreads

    def _scales(self, plan: Plan) -> dict[str, Scale]:
        merged: dict[str, Spread] = {}
        for name in sorted(plan.tensors):
            merged.setdefault(plan.leader(name), Spread()).merge(self._spreads[name])
        return {name: spread.scale() for name, spread in merged.items()}
