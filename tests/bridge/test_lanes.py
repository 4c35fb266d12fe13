"""Calls side by side: which builds can have lanes, what is measured of them, and when a choice names them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_engine import COMMAND, DEVICE, FaultyEngine, ThreadedEngine

from tilth.bridge.build import Built, Tools, build_file
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.cache import Cache
from tilth.bridge.lanes import divided, pays
from tilth.bridge.measure.cores import Cores
from tilth.bridge.request import Request
from tilth.core.build import Build, Precision, Scalar
from tilth.core.certificate import Lanes
from tilth.core.device import Device
from tilth.plugins.engines.openvino import OpenVinoEngine
from tilth.plugins.engines.ort import OrtEngine

#: Long enough for two candidates and their lanes on a machine that is busy with other things.
LONG = Request(budget_s=12.0, batches=(1,))


def chip(cores: int) -> Device:
    return replace(DEVICE, cores=cores)


def made(settings: dict[str, Scalar] | None = None) -> Build:
    return Build("g", "cpu-x86_64", "ort", Precision.FP32, settings=settings or {})


@pytest.mark.parametrize(
    ("settings", "cores", "count", "threads"),
    [
        ({}, 2, 2, 1),
        ({}, 3, 3, 1),
        ({}, 8, 4, 2),
        ({}, 192, 4, 48),
        ({"threads": 1}, 2, 2, 1),
        ({"threads": 1}, 64, 4, 1),
        ({"threads": 4}, 8, 2, 4),
        ({"threads": 8}, 8, 4, 2),
        ({"shapes": "fixed"}, 2, 2, 1),
    ],
)
@pytest.mark.parametrize("engine", [OrtEngine(), OpenVinoEngine()])
def test_lanes_share_the_cores_and_never_more(
    settings: dict[str, Scalar], cores: int, count: int, threads: int, engine: Any
) -> None:
    found = divided(made(settings), 30.0, chip(cores), engine)
    assert found is not None
    build, lanes = found
    assert lanes == count and build.settings["threads"] == threads and lanes * threads <= cores
    assert {k: v for k, v in build.settings.items() if k != "threads"} == {
        k: v for k, v in settings.items() if k != "threads"
    }


@pytest.mark.parametrize(
    ("settings", "cores", "p50_ms", "engine"),
    [
        ({}, 1, 30.0, OrtEngine()),
        ({}, 2, 0.2, OrtEngine()),
        ({"threads": 5}, 8, 30.0, OrtEngine()),
        ({}, 2, 30.0, FaultyEngine()),
    ],
    ids=["one core", "quick", "no room for two", "an engine that cannot be told"],
)
def test_where_there_can_be_but_one_there_are_none(
    settings: dict[str, Scalar], cores: int, p50_ms: float, engine: Any
) -> None:
    assert divided(made(settings), p50_ms, chip(cores), engine) is None


@pytest.mark.parametrize(("gain", "low", "worth"), [(1.06, 1.03, True), (1.01, 1.005, False), (1.3, 0.98, False)])
def test_a_gain_that_is_small_or_uncertain_is_none(gain: float, low: float, worth: bool) -> None:
    assert pays(Lanes(2, 1, 1, 1, 1, 1, "b", gain, low, 2)) is worth


# -- in a search


@pytest.fixture(autouse=True)
def _all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cores, "are_clear", lambda _: True)


@pytest.fixture
def search(doubler: Callable[..., Path], tmp_path: Path) -> Callable[..., Built]:
    path = doubler()

    def run(engine: FaultyEngine, request: Request = LONG) -> Built:
        named: Any = {"ort": FaultyEngine(name="ort", installed=""), engine.name: engine}
        tools = Tools(named, COMMAND, COMMAND, Cache(tmp_path / "cache"), "0.1")
        wanted = replace(request, engines=(engine.name,))
        return build_file(path, path, DEVICE, wanted, tools, lambda *_: None)

    return run


def test_lanes_that_get_more_done_are_named_beside_the_choice(search: Callable[..., Built], tmp_path: Path) -> None:
    """Calls that sleep share no core, so that two lanes get twice as much done."""
    built = search(ThreadedEngine({"delay_us": 20_000}))
    choice = built.check()
    known = {c.build: c for c in built.result.certificates}
    busy = next(b for b in built.result.builds if b.id == choice.busy)
    assert busy.settings == {"delay_us": 20_000, "threads": 1} and choice.build != choice.busy
    lanes = known[busy.id].lanes
    assert lanes is not None and (lanes.count, lanes.batch, lanes.reference_build) == (2, 1, choice.build)
    assert 1.7 < lanes.gain < 2.1 and lanes.gain_low <= lanes.gain <= lanes.gain_high
    assert lanes.rows_per_s == pytest.approx(2e3 / 20, rel=0.25) and lanes.p50_ms >= 20
    assert known[busy.id].agrees and not known[busy.id].timings
    assert "2 at a time" in choice.reasons[busy.id]
    # It is what is read again, and what the cache gives.
    with open_bundle(tmp_path / "m.tilth") as bundle:
        assert bundle.manifest.choices[0] == choice


def test_a_build_that_has_one_thread_is_its_own_lane(search: Callable[..., Built]) -> None:
    choice = search(ThreadedEngine({"delay_us": 20_000, "threads": 1})).check()
    assert choice.busy == choice.build


def test_lanes_that_get_less_done_are_on_record_and_not_named(search: Callable[..., Built]) -> None:
    built = search(ThreadedEngine({"delay_us": 10_000, "lane_delay_us": 40_000}))
    lanes = [c.lanes for c in built.result.certificates if c.lanes is not None]
    assert not built.check().busy and len(lanes) == 1 and lanes[0].gain < 1


@pytest.mark.parametrize("wrong", [{"lane_error": 1.0}, {"lane_fault": "segfault"}, {"lane_elsewhere": True}])
def test_lanes_that_fail_or_answer_otherwise_are_not_named(search: Callable[..., Built], wrong: dict[str, Any]) -> None:
    built = search(ThreadedEngine({"delay_us": 5_000} | wrong))
    assert not built.check().busy
    assert all(c.lanes is None for c in built.result.certificates)


def test_a_budget_without_time_for_lanes_has_none(search: Callable[..., Built]) -> None:
    built = search(ThreadedEngine({"delay_us": 300_000}), replace(LONG, budget_s=1.0))
    assert not built.check().busy
