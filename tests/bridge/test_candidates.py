"""Candidates: every engine is asked, and nothing that will not run is dropped in silence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faulty_engine import DEVICE, FaultyEngine

from tilth.bridge.agreement import Tolerance
from tilth.bridge.candidates import Candidate, Candidates
from tilth.bridge.measure.worker import WorkerFailed
from tilth.bridge.request import Request
from tilth.bridge.variants import Variant
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.bundle import Refused
from tilth.core.device import Device
from tilth.core.graph import Graph
from tilth.ports.engine import Option

GRAPH = Graph("a" * 64, {"ai.onnx": 17}, {"Add": 1}, 1, 0)
PLAIN = Variant(GRAPH, Path("plain.onnx"), {})
OTHER = Variant(Graph("b" * 64, {"ai.onnx": 17}, {"Mul": 1}, 1, 0), Path("other.onnx"), {})


class Kitchen:
    plain = PLAIN

    def __init__(self) -> None:
        self.asked: list[str] = []

    def make(self, recipe: str, timeout_s: float) -> Variant | None:
        self.asked.append(recipe)
        if recipe == "broken":
            raise WorkerFailed("the recipe crashed", "its last words")
        return {"plain": PLAIN, "other": OTHER, "nothing": None}[recipe]


def collected(*engines: FaultyEngine, tolerance: float | None = None) -> tuple[list[Candidate], list[Refused], Kitchen]:
    kitchen: Any = Kitchen()
    made = Candidates(GRAPH, DEVICE, Request(tolerance=Tolerance(rms=tolerance)), kitchen)
    return list(made.of({engine.name: engine for engine in engines}, lambda: 10)), made.refused, kitchen


def test_an_engine_that_is_not_installed_is_refused_with_what_to_do() -> None:
    found, refused, _ = collected(FaultyEngine({}, name="absent", installed=""), FaultyEngine({}, name="here"))
    assert [c.build.engine for c in found] == ["here"]
    assert refused[0].label == "absent" and refused[0].target == DEVICE.target
    assert refused[0].refusals[0] == Refusal(Verdict.TODO, "`absent` is not installed; run `pip install absent`")


def test_every_refusal_of_an_engine_is_kept() -> None:
    reasons = (Refusal(Verdict.UPSTREAM, "no Conv"), Refusal(Verdict.NEVER, "wrong chip"))
    found, refused, _ = collected(FaultyEngine({}, {"threads": 1}, refused=reasons))
    assert not found and [r.refusals for r in refused] == [reasons, reasons]
    assert [r.label for r in refused] == ["faulty fp32", "faulty fp32 threads=1"]


def test_an_engine_that_offers_nothing_says_so() -> None:
    found, refused, _ = collected(FaultyEngine(), FaultyEngine({"precision": "int8"}, name="lower"))
    assert not found and [r.label for r in refused] == ["faulty", "lower"]
    assert refused[1].refusals[0].reason == "it offers nothing at fp32"
    known = (Refusal(Verdict.NEVER, "wrong chip"),)
    assert collected(FaultyEngine(refused=known))[1][0].refusals == known


def test_a_recipe_that_crashes_or_changes_nothing_is_a_refusal_and_is_followed_once() -> None:
    nothing = {"recipe": "nothing", "precision": "int8"}
    engine = FaultyEngine({"recipe": "broken"}, {"recipe": "broken", "threads": 1}, nothing, {})
    found, refused, kitchen = collected(engine, tolerance=0.01)
    assert [c.build.recipe for c in found] == ["plain"]
    assert sorted((r.label, r.refusals[0].verdict, r.last_words) for r in refused) == [
        ("faulty fp32 broken", Verdict.TODO, "its last words"),
        ("faulty fp32 broken threads=1", Verdict.TODO, "its last words"),
        ("faulty int8 nothing", Verdict.NEVER, ""),
    ]
    assert kitchen.asked.count("broken") == 1


def test_settings_are_tried_on_the_graph_as_it_is_where_a_recipe_changes_nothing() -> None:
    found, refused, _ = collected(FaultyEngine({}, {"recipe": "nothing"}, {"recipe": "nothing", "threads": 1}))
    assert sorted(c.build.label for c in found) == ["faulty fp32", "faulty fp32 threads=1"] and not refused


def test_plain_graphs_come_first_and_each_engine_keeps_its_order() -> None:
    one = FaultyEngine({"recipe": "other"}, {"threads": 1}, {}, name="one")
    found, _, _ = collected(one, FaultyEngine({}, name="two"))
    assert [c.build.label for c in found] == ["one fp32 threads=1", "one fp32", "two fp32", "one fp32 other"]
    assert found[-1].build.variant == OTHER.graph.digest and found[0].build.variant == GRAPH.digest
    assert {c.build.graph for c in found} == {GRAPH.digest} and len({c.build.id for c in found}) == 4


def test_lower_precision_is_offered_only_when_allowed() -> None:
    engine = FaultyEngine({}, {"precision": "bf16"}, {"precision": "int8"})
    assert [c.build.precision for c in collected(engine)[0]] == ["fp32"]
    assert [c.build.precision for c in collected(engine, tolerance=0.01)[0]] == ["fp32", "int8", "bf16"]


def test_a_lower_precision_without_a_recipe_that_helps_runs_the_graph_as_it_is() -> None:
    engine = FaultyEngine({}, {"recipe": "nothing", "precision": "bf16"})
    found, refused, _ = collected(engine, tolerance=0.01)
    assert [c.build.label for c in found] == ["faulty fp32", "faulty bf16"] and not refused


def test_what_is_objected_to_is_refused_before_anything_is_made_for_it() -> None:
    kitchen: Any = Kitchen()
    made = Candidates(GRAPH, DEVICE, Request(), kitchen)
    objection = Refusal(Verdict.TODO, "not now")
    engine = FaultyEngine({}, {"recipe": "other"})
    objected = made.of({"faulty": engine}, lambda: 10, lambda build, option: objection if build.recipe else None)
    assert [c.build.recipe for c in objected] == [] and kitchen.asked == []
    assert [r.refusals for r in made.refused] == [(objection,)] * 2


def test_the_recipe_that_stands_in_for_another_comes_after_it_and_before_what_promises_less() -> None:
    class Mixing(FaultyEngine):
        def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
            return [
                Option(Precision.FP32, "other"),
                Option(Precision.INT8, "amended", instead_of="other"),
                Option(Precision.INT8, "other"),
                Option(Precision.FP32),
            ]

    asked: list[str] = []
    made = Candidates(GRAPH, DEVICE, Request(tolerance=Tolerance(rms=0.1)), Kitchen())  # type: ignore[arg-type]

    def note(build: Build, option: Option) -> Refusal:
        asked.append(f"{build.label} {option.instead_of}".strip())
        return Refusal(Verdict.TODO, "not now")

    assert not list(made.of({"faulty": Mixing()}, lambda: 10, note))
    assert asked == ["faulty fp32", "faulty int8 other", "faulty int8 amended other", "faulty fp32 other"]
