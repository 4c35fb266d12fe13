"""Recipes: every one gives a model that loads, answers closely, and leaves nothing beside the weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibrating import Array, Loads, N, answers, error, network, noise, ops, residual, rows

from tilth.bridge.recipes import RECIPES
from tilth.bridge.skeleton import split


def stored(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return the model with its weights in a file in `folder`, as a recipe gets it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving moves the weights out of the model that is saved
    onnx.save_model(copy, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=4096)
    return onnx.load(folder / "model.onnx", load_external_data=False)


def answered(model: onnx.ModelProto, folder: Path, feed: dict[str, Array]) -> list[Array]:
    path = folder / "made.onnx"
    onnx.save_model(model, path)
    whole = onnx.load(path)
    path.unlink()
    return answers(whole, feed)


def transformer_like() -> onnx.ModelProto:
    nodes = [
        N("MatMul", ["x", "w0"], ["m"]),
        N("Add", ["m", "b0"], ["a"]),
        N("Tanh", ["a"], ["t"]),
        N("MatMul", ["t", "w1"], ["n"]),
        N("Add", ["n", "x"], ["y"]),
    ]
    constants = {"w0": noise(64, 256, scale=0.1), "b0": noise(256, seed=1), "w1": noise(256, 64, seed=2, scale=0.1)}
    return network(nodes, {"x": ["batch", 7, 64]}, {"y": 3}, constants)


@pytest.mark.parametrize("recipe", ["lean", "int8", "int8-mixed", "int8-dynamic"])
@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_a_recipe_that_changes_something_keeps_the_answers(recipe: str, kind: str, tmp_path: Path) -> None:
    shape = (3, 9, 9) if kind == "images" else (7, 64)
    source = residual() if kind == "images" else transformer_like()
    model, feed = stored(source, tmp_path), {"x": noise(3, *shape, seed=50)}
    changes = RECIPES[recipe](model, tmp_path, rows(8, *shape), Loads(), 0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "weights"]
    if changes:
        split(model, tmp_path)  # what it wrote can be bundled
        assert error(answered(model, tmp_path, feed), answers(source, feed)) < 0.06
    assert bool(changes) == ((recipe, kind) in {("int8", "images"), ("int8", "tokens"), ("int8-dynamic", "tokens")})


def test_a_network_without_weights_has_no_int8_form(tmp_path: Path) -> None:
    model = network([N("Add", ["x", "x"], ["s"]), N("Tanh", ["s"], ["y"])], {"x": ["batch", 4]}, {"y": 2}, {})
    for recipe in ("int8", "int8-mixed", "int8-dynamic"):
        assert RECIPES[recipe](model, tmp_path, rows(2, 4), Loads(), 0.05) == 0


def test_normalised_convolutions_are_folded_before_they_are_rounded(tmp_path: Path) -> None:
    norm = {"gain": noise(16, seed=1), "shift": noise(16, seed=2), "mean": noise(16, seed=3)}
    constants = {"w": noise(16, 3, 3, 3, scale=0.3), "v": noise(16, 16, 1, 1, seed=5), **norm}
    nodes = [
        N("Conv", ["x", "w"], ["c"]),
        N("BatchNormalization", ["c", *norm, "variance"], ["n"]),
        N("Relu", ["n"], ["r"]),
        N("Conv", ["r", "v"], ["d"]),
        N("Relu", ["d"], ["y"]),
    ]
    constants["variance"] = np.abs(noise(16, seed=4)) + np.float32(0.5)
    source = network(nodes, {"x": ["batch", 3, 9, 9]}, {"y": 4}, constants)
    model = stored(source, tmp_path)
    assert RECIPES["int8"](model, tmp_path, rows(8, 3, 9, 9), Loads(), 0.05) == 2
    assert {"BatchNormalization", "Relu"}.isdisjoint(ops(model))
    feed = {"x": noise(2, 3, 9, 9, seed=50)}
    assert error(answered(model, tmp_path, feed), answers(source, feed)) < 0.06
