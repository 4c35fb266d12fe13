"""Which parts stay float: those with the most error for the work they save, and no more than needed."""

from pathlib import Path

import onnx
from calibrating import Loads, N, answers, error, network, noise, residual, rows

from tilth.bridge.int8_mixed import Part, keep_within, parts, within
from tilth.bridge.int8_plan import Site


def site(name: str) -> Site:
    return Site(name, "Conv", f"{name}_in", f"{name}_w", "", 0)


def part(name: str, products: int, squared_error: float) -> Part:
    return Part((site(name),), products, squared_error)


def test_the_part_with_most_error_for_its_work_goes_first() -> None:
    cheap, dear, clean = part("a", 1, 0.5), part("b", 100, 1.0), part("c", 50, 0.001)
    assert within([cheap, dear, clean], 2.0) == [cheap, dear, clean]
    assert within([cheap, dear, clean], 1.1) == [dear, clean]
    assert within([cheap, dear, clean], 0.01) == [clean]
    assert within([cheap, dear, clean], 0.0) == []


def test_parts_are_about_equal_and_miss_nothing() -> None:
    sites = [site(f"s{i}") for i in range(100)]
    products = {one.name: 1 + i % 5 for i, one in enumerate(sites)}
    found = parts(sites, products)
    assert [one for part in found for one in part.sites] == sites
    assert len(found) == 12
    assert max(part.products for part in found) <= 2 * min(part.products for part in found)


def test_one_huge_site_is_a_part_of_its_own() -> None:
    sites = [site("a"), site("b"), site("c")]
    assert [len(part.sites) for part in parts(sites, {"a": 1, "b": 1000, "c": 1})] == [1, 1, 1]


def amplifier() -> onnx.ModelProto:
    """Return four products, the second of which doubles small differences between large numbers."""
    nodes, constants = [], {}
    for i in range(4):
        nodes += [N("MatMul", [f"v{i}", f"w{i}"], [f"m{i}"]), N("Tanh", [f"m{i}"], [f"v{i + 1}"])]
        constants[f"w{i}"] = noise(64, 64, seed=i, scale=0.1)
    constants["w1"][0] *= 3000
    constants["w1"][1] = -constants["w1"][0]
    constants["w0"][:, 1] = constants["w0"][:, 0] + noise(64, seed=9, scale=1e-4)
    return network(nodes, {"v0": ["batch", 64]}, {"v4": 2}, constants)


def test_the_part_that_spoils_the_answers_stays_float(tmp_path: Path) -> None:
    model, inputs = amplifier(), rows(8, 64, name="v0")
    made = keep_within(0.05, model, tmp_path, inputs, Loads())
    assert made is not None
    names = {item.name for item in made.graph.initializer}
    assert "w1" in names
    assert "w3" not in names
    assert error(answers(made, inputs[-1]), answers(model, inputs[-1])) <= 0.08
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_second_version_of_what_is_good_already(tmp_path: Path) -> None:
    assert keep_within(0.1, residual(), tmp_path, rows(8, 3, 9, 9), Loads()) is None


def test_an_error_that_nothing_reaches_gives_none(tmp_path: Path) -> None:
    assert keep_within(1e-9, residual(), tmp_path, rows(8, 3, 9, 9), Loads()) is None
