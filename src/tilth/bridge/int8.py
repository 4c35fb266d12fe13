"""Turns a float graph into an int8 one: looks at activations, decides, rewrites."""

from collections.abc import Collection, Sequence
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

#: A node with fewer output channels takes too small a share of the time to pay for rounding its input.
_LEAST_CHANNELS = 9


class Quantizer:
    """Makes int8 versions of one model; every tensor is looked at once, when a version first needs it.

    The model is read, never written. External weights lie in `folder`.
    """

    def __init__(self, model: ModelProto, folder: Path, inputs: Sequence[Values], load: Load) -> None:
        """Take the float model and calibration inputs, one row each."""
        self._model, self._folder, self._inputs, self._load = model, folder, inputs, load
        self._constants = Constants(model.graph, folder)
        self.sites = [
            site
            for site in find_sites(model.graph, self._constants)
            if self._constants.shape(site.weight)[site.axis] >= _LEAST_CHANNELS
        ]
        self._windows = self._find_windows()
        self._spreads: dict[str, Spread] = {}
        self._means: dict[str, Array] = {}

    def made(self, sites: Collection[Site]) -> ModelProto:
        """Return a copy of the model in which `sites`, and what they allow, run in int8.

        Raises:
            UnsupportedError: the model's operator set is too old.
            InvalidError: an activation or a weight is NaN or infinite.
        """
        plan = make_plan(self._model.graph, sites, self._constants)
        self._look(plan)
        copy = ModelProto()
        copy.CopyFrom(self._model)
        QuantizeStatic(self._folder, plan, self._scales(plan), self._means)(copy)
        return copy

    def _find_windows(self) -> dict[str, dict[Window, list[str]]]:
        """Return, for each input of a site with a bias to correct, how the sites slide over it."""
        nodes = {node.output[0]: node for node in self._model.graph.node if node.output}
        found: dict[str, dict[Window, list[str]]] = {}
        for site in self.sites:
            window = window_of(nodes[site.name], self._constants.shape(site.weight))
            if window is not None:
                found.setdefault(site.data, {}).setdefault(window, []).append(site.name)
        return found

    def _look(self, plan: Plan) -> None:
        new = plan.tensors - self._spreads.keys()
        self._spreads |= {name: Spread() for name in new}
        rows = dict.fromkeys(new, 0)

        def visit(name: str, values: Array) -> None:
            self._spreads[name].add(values)
            rows[name] += 1
            for window, sites in self._windows.get(name, {}).items():
                mean = window.mean(values)
                for site in sites:
                    before = self._means.get(site, np.zeros_like(mean))
                    self._means[site] = before + (mean - before) / rows[name]

        watch(self._model, self._folder, new, self._inputs, self._load, visit)

    def _scales(self, plan: Plan) -> dict[str, Scale]:
        merged: dict[str, Spread] = {}
        for name in sorted(plan.tensors):
            merged.setdefault(plan.leader(name), Spread()).merge(self._spreads[name])
        return {name: spread.scale() for name, spread in merged.items()}
