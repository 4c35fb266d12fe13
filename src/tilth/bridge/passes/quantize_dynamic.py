"""Runs matrix products and LSTMs in int8 with activation scales that are found at every call."""

from math import prod
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from tilth.bridge.constants import Constants
from tilth.bridge.int8_plan import Site, find_sites
from tilth.bridge.passes.base import Pass
from tilth.bridge.scales import quantise_weights, weight_scales
from tilth.core.errors import UnsupportedError
from tilth.ports.arrays import Array

#: MatMulInteger came with opset 10, DynamicQuantizeLinear with 11.
LEAST_OPSET = 11
#: Below this many weights a product takes less time than finding the scale of its input.
LEAST_WEIGHTS = 1 << 14
_MICROSOFT = "com.microsoft"


class QuantizeDynamic(Pass):
    """Turns MatMul and Gemm with constant weights into MatMulInteger, and LSTM into onnxruntime's DynamicQuantizeLSTM.

    Weights become int8 with one scale per output channel; nothing is calibrated. Convolutions stay, and so do the
    products of a graph in which convolutions hold most weights.
    """

    name = "quantize-dynamic"

    def __init__(self, folder: Path) -> None:
        """Take the folder in which external weights lie."""
        self._folder = folder

    def rewrite(self, model: ModelProto) -> int:
        """Quantise every product and LSTM that is large enough; return how many there were.

        Raises:
            UnsupportedError: the model's operator set is older than 11.
            InvalidError: a weight is NaN or infinite.
        """
        constants = Constants(model.graph, self._folder)
        writer = _Writer(constants)
        sites = {site.name: site for site in _paying(find_sites(model.graph, constants), constants)}
        nodes: list[NodeProto] = []
        for node in model.graph.node:
            name = node.output[0] if node.output else ""
            if name in sites:
                nodes += writer.product(node, sites[name])
            elif _is_plain_lstm(node, constants):
                nodes.append(writer.recurrence(node))
            else:
                nodes.append(node)
        if writer.changes:
            _check_opset(model)
            del model.graph.node[:]
            model.graph.node.extend(nodes)
            constants.drop_unused()
        if writer.recurrences and all(item.domain != _MICROSOFT for item in model.opset_import):
            model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
        return writer.changes


class _Writer:
    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._rounded: dict[str, list[str]] = {}
        self._weights: dict[tuple[str, int], tuple[str, str]] = {}
        self.changes = self.recurrences = 0

    def product(self, node: NodeProto, site: Site) -> list[NodeProto]:
        """Return the nodes that stand for a MatMul or Gemm."""
        self.changes += 1
        fresh, made = self._constants.fresh, []
        if site.data not in self._rounded:
            self._rounded[site.data] = [fresh(f"{site.data}_{part}") for part in ("u8", "u8_scale", "u8_zero")]
            made.append(helper.make_node("DynamicQuantizeLinear", [site.data], self._rounded[site.data]))
        number, scale, zero = self._rounded[site.data]
        weights, weight_scale = self._quantised(site)
        whole, real, step = (fresh(f"{site.name}_{part}") for part in ("i32", "f32", "step"))
        scaled = fresh(f"{site.name}_scaled") if site.bias else site.name
        made += [
            helper.make_node("MatMulInteger", [number, weights, zero], [whole]),
            helper.make_node("Cast", [whole], [real], to=TensorProto.FLOAT),
            helper.make_node("Mul", [scale, weight_scale], [step]),
            helper.make_node("Mul", [real, step], [scaled], name=node.name),
        ]
        if site.bias:
            made.append(helper.make_node("Add", [scaled, site.bias], [site.name]))
        return made

    def _quantised(self, site: Site) -> tuple[str, str]:
        key = site.weight, site.axis
        if key not in self._weights:
            weights = self._constants.read(site.weight)
            scales = weight_scales(weights, site.axis)
            numbers = quantise_weights(weights, scales, site.axis)
            numbers = numbers if site.axis == 1 else numbers.T
            self._weights[key] = (
                self._constants.add(f"{site.weight}_int", numbers),
                self._constants.add(f"{site.weight}_scale", scales),
            )
        return self._weights[key]

    def recurrence(self, node: NodeProto) -> NodeProto:
        """Return the LSTM in onnxruntime's own form: weights transposed, with a scale and zero point each."""
        self.changes += 1
        self.recurrences += 1
        extra: list[str] = []
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        for index in (1, 2):
            numbers, scales = _by_gate(self._constants.read(node.input[index]))
            inputs[index] = self._constants.add(f"{node.input[index]}_int", numbers)
            extra.append(self._constants.add(f"{node.input[index]}_scale", scales))
            extra.append(self._constants.add(f"{node.input[index]}_zero", np.zeros(scales.shape, np.int8)))
        made = helper.make_node("DynamicQuantizeLSTM", [*inputs, *extra], list(node.output), name=node.name)
        made.domain = _MICROSOFT
        made.attribute.extend(item for item in node.attribute if item.name != "layout")
        return made


def _by_gate(weights: Array) -> tuple[Array, Array]:
    """Return int8 (directions, inputs, gates) and scales (directions, gates) of weights (directions, gates, inputs)."""
    scales = np.stack([weight_scales(one, 0) for one in weights])
    numbers = np.stack([quantise_weights(one, s, 0).T for one, s in zip(weights, scales, strict=True)])
    return np.ascontiguousarray(numbers), scales


def _paying(sites: list[Site], constants: Constants) -> list[Site]:
    """Return the products that are large enough; none where convolutions hold most weights and so take most time."""
    weights = {site.name: prod(constants.shape(site.weight)) for site in sites}
    products = [site for site in sites if site.op in ("MatMul", "Gemm")]
    if 2 * sum(weights[site.name] for site in products) < sum(weights.values()):
        return []
    return [site for site in products if weights[site.name] >= LEAST_WEIGHTS]


def _is_plain_lstm(node: NodeProto, constants: Constants) -> bool:
    if node.op_type != "LSTM" or node.domain not in ("", "ai.onnx"):
        return False
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return not given.get("layout", 0) and all(constants.is_float(name) for name in node.input[1:3])


def _check_opset(model: ModelProto) -> None:
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if version < LEAST_OPSET:
        raise UnsupportedError(
            f"a graph of operator set {version} is not quantised",
            why=f"scales found at every call need operator set {LEAST_OPSET}",
            hint=f"export the model with opset {LEAST_OPSET} or newer",
        )
