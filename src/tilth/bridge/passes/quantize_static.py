"""Runs convolutions and matrix products in int8 with scales that are known beforehand, as QDQ nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tilth.bridge.constants import Constants
from tilth.bridge.int8_plan import Plan, Site
from tilth.bridge.passes.base import Pass
from tilth.bridge.scales import Scale, floor_for_bias, quantise_weights, weight_scales, weights_back
from tilth.core.errors import UnsupportedError
from tilth.ports.arrays import Array

#: Scales per channel came to QuantizeLinear and DequantizeLinear with this version of the operator set.
LEAST_OPSET = 13


class QuantizeStatic(Pass):
    """Puts QuantizeLinear and DequantizeLinear around the nodes of a plan; weights become int8, one scale per channel.

    Activations are uint8 with a zero point, biases int32. `means` holds the mean input of a site, one figure per
    weight of an output channel; where it is given, the bias takes up what rounding the weights would shift.
    """

    name = "quantize-static"

    def __init__(
        self, folder: Path, plan: Plan, scales: Mapping[str, Scale], means: Mapping[str, Array] | None = None
    ) -> None:
        """Take the scale of every tensor that leads others in `plan`; external weights lie in `folder`."""
        self._folder, self._plan, self._scales, self._means = folder, plan, scales, means or {}

    def rewrite(self, model: ModelProto) -> int:
        """Quantise every site of the plan; return how many there were.

        Raises:
            UnsupportedError: the model's operator set is older than 13.
            InvalidError: a weight is NaN or infinite.
        """
        if not self._plan.sites:
            return 0
        check_opset(model)
        constants = Constants(model.graph, self._folder)
        writer = _Writer(constants, self._plan, self._scales, self._means)
        writer.start(model)
        nodes = [made for node in model.graph.node for made in writer.written(node)]
        del model.graph.node[:]
        model.graph.node.extend(writer.first + nodes)
        constants.drop_unused()
        stale = self._plan.tensors | self._plan.sites.keys()
        kept = [value for value in model.graph.value_info if value.name not in stale]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        return len(self._plan.sites)


class _Stored(NamedTuple):
    """Initializers that hold int8 or int32 numbers, their scales and their zero points, and the axis of the scales."""

    names: tuple[str, str, str]
    axis: int


class _Writer:
    """Rewrites the nodes of one graph, first to last."""

    def __init__(
        self, constants: Constants, plan: Plan, scales: Mapping[str, Scale], means: Mapping[str, Array]
    ) -> None:
        self._constants, self._plan, self._scales, self._means = constants, plan, scales, means
        self._back: dict[str, str] = {}
        self._params: dict[str, tuple[str, str]] = {}
        self._stores: dict[tuple[str, int, bytes], _Stored] = {}
        self._outputs: set[str] = set()
        self._behind = {before: name for name, before in plan.dropped.items()}
        self.first: list[NodeProto] = []

    def start(self, model: ModelProto) -> None:
        """Quantise graph inputs."""
        self._outputs = {value.name for value in model.graph.output}
        for value in model.graph.input:
            if value.name in self._plan.tensors:
                self.first += self._round_trip(value.name, value.name)

    def written(self, node: NodeProto) -> list[NodeProto]:
        """Return the nodes that stand for `node`."""
        name = node.output[0] if node.output else ""
        if name in self._plan.dropped:
            return []
        site, made = self._plan.sites.get(name), []
        reads_rounded = name in self._plan.readers
        for index, source in enumerate(node.input):
            if source in self._back and (reads_rounded or source in self._plan.made):
                node.input[index] = self._back[source]
        if site is not None:
            made = self._weights(node, site)
        made.append(node)
        for index, output in enumerate(node.output):
            made += self._after(node, index, self._behind.get(output, output))
        return made

    def _after(self, node: NodeProto, index: int, name: str) -> list[NodeProto]:
        if name not in self._plan.tensors:
            return []
        raw = name
        if name in self._plan.made:
            raw = self._constants.fresh(f"{name}_raw") if name in self._outputs else name
            node.output[index] = raw
        return self._round_trip(raw, name)

    def _round_trip(self, raw: str, name: str) -> list[NodeProto]:
        scale, zero = self._parameters(self._plan.leader(name))
        number = self._constants.fresh(f"{name}_u8")
        back = name if raw != name else self._constants.fresh(f"{name}_rounded")
        self._back[name] = back
        return [
            helper.make_node("QuantizeLinear", [raw, scale, zero], [number]),
            helper.make_node("DequantizeLinear", [number, scale, zero], [back]),
        ]

    def _parameters(self, lead: str) -> tuple[str, str]:
        if lead not in self._params:
            scale = self._scales[lead]
            self._params[lead] = (
                self._constants.add(f"{lead}_scale", np.array(scale.scale, np.float32)),
                self._constants.add(f"{lead}_zero", np.array(scale.zero, np.uint8)),
            )
        return self._params[lead]

    def _weights(self, node: NodeProto, site: Site) -> list[NodeProto]:
        weights = self._constants.read(site.weight)
        data = self._scales[self._plan.leader(site.data)]
        scales = weight_scales(weights, site.axis)
        bias = self._constants.read(site.bias) if site.bias else None
        if bias is not None:
            scales = floor_for_bias(scales, bias, data)
        numbers = quantise_weights(weights, scales, site.axis)
        bias = self._corrected(site, bias, weights_back(numbers, scales, site.axis) - weights)
        made = [self._back_to_float(node, 1, self._stored(site.weight, numbers, scales, site.axis))]
        if bias is not None:
            steps = scales.astype(np.float64) * data.scale
            whole = np.rint(bias / steps).clip(-(2**31), 2**31 - 1).astype(np.int32)
            made.append(self._back_to_float(node, 2, self._stored(f"{site.name}_bias", whole, steps, 0)))
        return made

    def _corrected(self, site: Site, bias: Array | None, error: Array) -> Array | None:
        mean = self._means.get(site.name)
        if mean is None or site.op not in ("Conv", "Gemm"):
            return bias
        shift = np.moveaxis(error, site.axis, 0).reshape(error.shape[site.axis], -1)
        grouped = mean.reshape(site.group, 1, -1)
        shift = (shift.reshape(site.group, -1, shift.shape[1]) * grouped).sum(axis=2).reshape(-1)
        return np.asarray(-shift if bias is None else bias - shift)

    def _stored(self, hint: str, numbers: Array, scales: Array, axis: int) -> _Stored:
        key = hint, axis, scales.tobytes()
        if key not in self._stores:
            names = (
                self._constants.add(f"{hint}_int", numbers),
                self._constants.add(f"{hint}_scale", scales.astype(np.float32)),
                self._constants.add(f"{hint}_zero", np.zeros(scales.shape, numbers.dtype)),
            )
            self._stores[key] = _Stored(names, axis)
        return self._stores[key]

    def _back_to_float(self, node: NodeProto, index: int, stored: _Stored) -> NodeProto:
        back = self._constants.fresh(f"{stored.names[0]}_back")
        node.input.extend([""] * (index + 1 - len(node.input)))
        node.input[index] = back
        return helper.make_node("DequantizeLinear", stored.names, [back], axis=stored.axis)


def check_opset(model: ModelProto) -> None:
    """Check that the standard operators that int8 needs are in the model's operator set.

    Raises:
        UnsupportedError: it is older than 13.
    """
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if version < LEAST_OPSET:
        raise UnsupportedError(
            f"a graph of operator set {version} is not quantised",
            why=f"scales per channel need operator set {LEAST_OPSET}",
            hint=f"export the model with opset {LEAST_OPSET} or newer",
        )
