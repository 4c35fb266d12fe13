"""The search over engines that crash, hang, lie and lag, in real children; and what an interrupt leaves."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_engine import COMMAND, DEVICE, FaultyEngine

from tilth.bridge.agreement import Tolerance
from tilth.bridge.build import Built, Result, Tools, build_file
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.cache import Cache
from tilth.bridge.measure.arena import Arena, Contender, Limits
from tilth.bridge.measure.cores import Cores
from tilth.bridge.measure.rounds import time_round
from tilth.bridge.measure.worker import WorkerFailed, memory_bytes
from tilth.bridge.request import Evaluation, Request
from tilth.bridge.search import estimate_limits
from tilth.bridge.value_file import write_values
from tilth.core.build import Build, Precision
from tilth.core.errors import CancelledError, InvalidError, MissingError, RefusedError

Doubler = Callable[..., Path]
QUICK = Request(budget_s=1.0, batches=(1, 8))
TINY = Request(budget_s=0.15, batches=(1,))
#: Long enough for two candidates on a machine that is busy with other things.
LONG = Request(budget_s=4.0, batches=(1, 8))


class Watcher:
    """Progress that notes what was measured, and interrupts at a stage when asked to."""

    def __init__(self, stop_at: str = "", after: int = 0) -> None:
        self.stages: list[str] = []
        self.measured: list[str] = []
        self._stop_at, self._after = stop_at, after

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        self.stages.append(stage)
        if stage == "measuring" and detail:
            self.measured.append(detail)
        if stage == self._stop_at and self.stages.count(stage) > self._after:
            raise KeyboardInterrupt


class Search:
    """Builds a bundle with faulty engines; the children that were started are counted by their logs."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._path, self._cache = path, cache

    def __call__(self, *engines: FaultyEngine, **how: Any) -> Built:
        """Search until the budget sufficed to see everyone, since a busy machine takes longer."""
        for budget_s in (1.0, 5.0, 25.0):
            built = self.once(*engines, **{"request": replace(QUICK, budget_s=budget_s)} | how)
            if "request" in how or "the budget ended" not in str(built.result.refused):
                break
        return built

    def once(self, *engines: FaultyEngine, request: Request, watch: Any = None, fresh: bool = False) -> Built:
        named = {"ort": FaultyEngine(name="ort", installed="")} | {engine.name: engine for engine in engines}
        tools = Tools(named, COMMAND, COMMAND, Cache(self._cache, fresh=fresh), "0.1")
        names = tuple(engine.name for engine in engines)
        watch = watch or Watcher()
        return build_file(self._path, self._path, DEVICE, replace(request, engines=names), tools, watch)


@pytest.fixture(autouse=True)
def _all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets here are a second or two: tests that run side by side would wait for one another's cores."""
    monkeypatch.setattr(Cores, "are_clear", lambda _: True)


@pytest.fixture
def search(doubler: Doubler, tmp_path: Path) -> Search:
    return Search(doubler(), tmp_path / "cache")


def labels(result: Result) -> dict[str, str]:
    return {b.id: b.label.removeprefix("faulty fp32 ") for b in result.builds}


def refusals(result: Result) -> dict[str, str]:
    return {r.label.removeprefix("faulty fp32 "): r.refusals[0].reason for r in result.refused}


def winner(built: Built) -> str:
    return labels(built.result)[built.check().build]


def test_the_fastest_that_agrees_wins_and_everyone_else_has_a_reason(search: Search) -> None:
    engine = FaultyEngine({"delay_us": 3000}, {"delay_us": 1000}, {"delay_us": 200, "error": 0.5}, {"delay_us": 1500})
    built = search(engine, request=LONG)
    assert winner(built) == "delay_us=1000"
    choice, names = built.check(), labels(built.result)
    reasons = {names[name]: why for name, why in choice.reasons.items()}
    assert set(reasons) == set(names.values()) - {"delay_us=1000"} and all(reasons.values())
    assert "relative error" in reasons["delay_us=200 error=0.5"]
    timed = {names[c.build]: c.timings for c in built.result.certificates}
    assert [t.batch for t in timed["delay_us=1000"]] == [1, 8] and not timed["delay_us=200 error=0.5"]
    assert timed["delay_us=1000"][0].ratio == pytest.approx(0.36, abs=0.15)


def test_engines_that_crash_or_refuse_are_recorded_with_their_last_words(search: Search) -> None:
    built = search(
        FaultyEngine(
            {"fault": "abort"},
            {"fault": "segfault", "when": 1},
            {"fault": "exit", "when": 2},
            {"fault": "refuse"},
            {"fault": "raise", "when": "placement"},
            {"lie": True},
            {"elsewhere": True},
            {"delay_us": 500},
        ),
        request=Request(budget_s=6.0, batches=(1,)),
    )
    assert winner(built) == "delay_us=500"
    found = refusals(built.result)
    assert found == {
        "fault=abort": "its process was ended by SIGABRT",
        "fault=segfault when=1": "its process was ended by SIGSEGV",
        "fault=exit when=2": "its process ended with exit code 3",
        "fault=refuse": "the engine refuses: it is Tuesday",
        "fault=raise when=placement": "by zero",
        "lie=True": found["lie=True"],
    }
    assert found["lie=True"].startswith("the engine's placement is no record")
    assert "std::bad_day" in next(r.last_words for r in built.result.refused if "abort" in r.label)
    by_label = {labels(built.result)[c.build]: c for c in built.result.certificates}
    assert "50% of its nodes" in by_label["elsewhere=True"].reasons[0] and not by_label["elsewhere=True"].agrees


def test_one_that_crashes_in_a_later_round_is_refused_and_the_rest_goes_on(search: Search) -> None:
    # Enough time for the 200th call, also where each block is run twice because the machine is busy.
    request = replace(QUICK, budget_s=8.0)
    crashing = {"delay_us": 300, "fault": "segfault", "when": 200}
    built = search(FaultyEngine({"delay_us": 900}, crashing), request=request)
    assert winner(built) == "delay_us=900"
    assert "SIGSEGV" in refusals(built.result)["delay_us=300 fault=segfault when=200"]


@pytest.mark.parametrize("when", [2, 4, 30])
def test_when_the_one_that_all_are_compared_with_dies_nobody_else_is_blamed(search: Search, when: int) -> None:
    first = {"delay_us": 800, "fault": "segfault", "when": when}
    built = search(FaultyEngine(first, {"delay_us": 2000}, {"delay_us": 1000}))
    assert winner(built) == "delay_us=1000"
    assert list(refusals(built.result)) == [f"delay_us=800 fault=segfault when={when}"]
    beside = {t.reference_build for c in built.result.certificates for t in c.timings}
    assert beside <= set(labels(built.result)), "ratios are to a build that is there"


def test_several_that_die_in_turn_leave_the_one_that_lives(search: Search) -> None:
    dying = [{"delay_us": 500 + n, "fault": "exit", "when": 25 + 5 * n} for n in range(3)]
    built = search(FaultyEngine(*dying, {"delay_us": 3000}))
    assert winner(built) == "delay_us=3000" and len(built.result.refused) == 3


def test_one_that_is_hopeless_at_first_sight_is_not_timed_at_length(search: Search) -> None:
    built = search(FaultyEngine({"delay_us": 200}, {"delay_us": 40_000}))
    choice = built.check()
    assert [why for why in choice.reasons.values() if "at a glance" in why]
    slow = next(c for c in built.result.certificates if c.build in choice.reasons)
    assert slow.timings[0].calls == 1


def test_a_tiny_budget_still_gives_a_result_and_names_what_it_left_out(search: Search) -> None:
    built = search(
        FaultyEngine({"delay_us": 400}, {"delay_us": 100}, {"delay_us": 200}), request=replace(QUICK, budget_s=0.01)
    )
    assert winner(built) == "delay_us=400"
    assert [why for why in refusals(built.result).values() if "the budget ended before" in why] != []


@pytest.mark.parametrize("late", [{"fault": "hang", "when": "load"}, {"fault": "hang", "when": 1}])
def test_a_search_ends_with_its_budget_whatever_a_late_candidate_does(search: Search, late: dict[str, Any]) -> None:
    began = time.monotonic()
    built = search(FaultyEngine({"delay_us": 500}, late), request=replace(QUICK, budget_s=3.0))
    assert time.monotonic() - began < 3.0 + 2.5, "the budget, and starting and ending children on a busy machine"
    assert winner(built) == "delay_us=500"
    assert list(refusals(built.result).values()) == [
        "the budget ended before it was measured; give more with `--budget`"
    ]


def test_a_build_that_agrees_row_by_row_and_not_in_a_batch_does_not_win(search: Search) -> None:
    # The golden set has few rows; 64 at once are only seen when that batch is timed.
    broken = {"delay_us": 200, "error_from": 64}
    built = search(FaultyEngine({"delay_us": 900}, broken), request=replace(LONG, batches=(1, 64)))
    assert winner(built) == "delay_us=900"
    reasons = {labels(built.result)[name]: why for name, why in built.check().reasons.items()}
    assert reasons["delay_us=200 error_from=64"].startswith("at batch 64: relative error")


@pytest.mark.parametrize(("delay_us", "timed"), [(90_000, [1, 4]), (500, [1, 4, 32]), (900_000, [1])])
def test_throughput_is_ranked_at_the_largest_batch_that_is_quick_to_time(
    search: Search, delay_us: int, timed: list[int]
) -> None:
    request = Request(goal="throughput", budget_s=4.0, batches=(1, 4, 32))
    built = search(FaultyEngine({"delay_us": delay_us}), request=request)
    assert [t.batch for t in built.result.certificates[0].timings] == timed


def test_where_a_task_metric_decides_it_decides_at_every_batch_size(search: Search) -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    request = replace(LONG, evaluation=Evaluation({"x": x}, np.argmax(x * 2, axis=1), 0.1))
    lower = {"precision": "int8", "delay_us": 200, "error": 0.5}
    built = search(FaultyEngine({"delay_us": 900}, lower), request=request)
    assert winner(built) == "faulty int8 delay_us=200 error=0.5"


def test_a_batch_that_would_outlast_the_budget_is_not_measured(search: Search) -> None:
    request = Request(budget_s=2.0, batches=(1, 10_000))
    built = search(FaultyEngine({"delay_us": 2000}), request=request)
    assert [t.batch for t in built.result.certificates[0].timings] == [1]


@pytest.mark.parametrize(("row_mib", "batches"), [(30, [1]), (1, [1, 32])])
def test_a_batch_that_would_take_more_memory_than_the_search_has_is_not_measured(
    search: Search, row_mib: int, batches: list[int]
) -> None:
    built = search(FaultyEngine({"row_mib": row_mib}), request=replace(LONG, batches=(1, 32)))
    assert [t.batch for t in built.result.certificates[0].timings] == batches


def test_what_stands_in_for_another_is_measured_only_when_no_build_of_that_agrees(search: Search) -> None:
    stand_in = {"precision": "int8", "instead_of": "plain", "delay_us": 100}
    request = replace(LONG, tolerance=Tolerance(rms=0.1))
    built = search(FaultyEngine({"delay_us": 900}, stand_in), request=request)
    assert "`faulty fp32 delay_us=900` agrees" in refusals(built.result)["faulty int8 delay_us=100"]
    built = search(FaultyEngine({"delay_us": 900, "error": 9.0}, stand_in), request=request, fresh=True)
    assert labels(built.result)[built.check().build] == "faulty int8 delay_us=100"


def test_a_tiny_budget_goes_on_to_another_engine_until_one_agrees(search: Search) -> None:
    built = search(
        FaultyEngine({"fault": "exit"}, {"delay_us": 1}, name="first"),
        FaultyEngine({"delay_us": 300}, name="second"),
        request=replace(QUICK, budget_s=0.01),
    )
    chosen = next(b for b in built.result.builds if b.id == built.check().build)
    assert chosen.engine == "second"


def test_nothing_that_agrees_is_refused_with_the_evidence_in_the_bundle(doubler: Doubler, tmp_path: Path) -> None:
    path = doubler(error=0.5)
    built = Search(path, tmp_path / "cache")(FaultyEngine({}, {"fault": "abort"}))
    with pytest.raises(RefusedError, match="no build for `cpu-x86_64` agrees") as caught:
        built.check()
    assert "faulty fp32: relative error" in caught.value.why
    with open_bundle(path) as bundle:
        kept = bundle.manifest
    assert len(kept.certificates) == 1 and not kept.certificates[0].agrees and not kept.choices
    assert kept.refused[0].label == "faulty fp32 fault=abort"


def test_a_tolerance_lets_a_build_win_that_is_a_little_off(doubler: Doubler, tmp_path: Path) -> None:
    path = doubler(error=0.01)
    request = replace(QUICK, tolerance=Tolerance(rms=0.05))
    built = Search(path, tmp_path / "cache")(FaultyEngine({}, {"error": 3.0}), request=request)
    assert winner(built) == "faulty fp32"


@pytest.mark.parametrize(
    ("stage", "after"), [("measuring", 0), ("measuring", 1), ("halving", 0), ("batches", 0), ("writing", 0)]
)
def test_an_interrupt_at_any_stage_loses_nothing_that_was_measured(search: Search, stage: str, after: int) -> None:
    engine = FaultyEngine({"delay_us": 900}, {"delay_us": 300})
    before = search._path.read_bytes()
    with pytest.raises((CancelledError, KeyboardInterrupt)):
        search(engine, request=LONG, watch=Watcher(stage, after))
    assert search._path.read_bytes() == before, "the old bundle stays until there is a new one"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    seen = sights(search)
    built = search(engine, request=LONG)
    assert len(seen) == {"measuring": after, "halving": 2, "batches": 2, "writing": 0}[stage]
    assert built.result.cached is (stage == "writing") and winner(built) == "delay_us=300"
    kept = {c.build: c.load_ms for c in built.result.certificates}
    assert len(kept) == 2 and seen.items() <= kept.items(), "what was seen is not looked at again"


def sights(search: Search) -> dict[str, float]:
    """Return how long each build took to load that an unfinished search has seen."""
    found = [json.loads(path.read_bytes()) for path in (search._cache / "search").glob("search-*.json")]
    states = [record["state"] for record in found if "state" in record]
    return {name: sight["load_ms"] for state in states for name, sight in state["sights"].items()}


def test_the_source_metric_survives_an_interrupt(search: Search) -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    labelled = Evaluation({"x": x}, np.argmax(x * 2, axis=1), 0.1)
    request = replace(LONG, evaluation=labelled)
    worse = {"precision": "int8", "error": -9.0}
    engine = FaultyEngine({"delay_us": 800}, worse)
    with pytest.raises(CancelledError):
        search(engine, request=request, watch=Watcher("measuring", 1))
    built = search(engine, request=request)
    tasks = {b.precision: c.task for b, c in zip(built.result.builds, built.result.certificates, strict=True)}
    assert tasks[Precision.INT8] is not None and tasks[Precision.INT8].source == 1.0


def test_a_lower_precision_wins_nothing_while_nothing_says_what_the_source_reached(search: Search) -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    request = replace(QUICK, evaluation=Evaluation({"x": x}, np.argmax(x * 2, axis=1), 0.1))
    built = search(FaultyEngine({"precision": "int8"}), request=request)
    with pytest.raises(RefusedError, match="agrees") as caught:
        built.check()
    assert "no fp32 build repeated" in caught.value.why


def test_labelled_data_that_does_not_fit_is_bad_input(search: Search) -> None:
    wrong = Evaluation({"x": np.zeros((4, 2))}, np.zeros(4, np.int64), 0.1)
    with pytest.raises(InvalidError, match="the evaluation data does not fit"):
        search(FaultyEngine({}), request=replace(QUICK, evaluation=wrong))
    short = Evaluation({"x": np.zeros((4, 2), np.float32)}, np.zeros(3, np.int64), 0.1)
    with pytest.raises(InvalidError, match="no output fits the labels"):
        search(FaultyEngine({}), request=replace(QUICK, evaluation=short))


def test_the_second_time_nothing_is_measured_and_the_choice_is_the_same(search: Search) -> None:
    engine = FaultyEngine({"delay_us": 300})
    first, watch = search(engine, request=TINY), Watcher()
    second = search(engine, request=TINY, watch=watch)
    assert second.result.cached and not watch.measured
    assert second.manifest == first.manifest and replace(second.result, cached=False) == first.result
    assert not search(engine, request=TINY, fresh=True).result.cached
    other = FaultyEngine({"delay_us": 300}, installed="2.0")
    assert not search(other, request=TINY).result.cached, "another version of an engine may run differently"


def test_a_damaged_record_in_the_cache_only_costs_time(search: Search, tmp_path: Path) -> None:
    engine = FaultyEngine({"delay_us": 300})
    search(engine, request=TINY)
    record = next((tmp_path / "cache" / "search").glob("search-*.json"))
    for damage in (b"{", b'{"result": {"builds": 3}}', b'{"state": 1}'):
        record.write_bytes(damage)
        built = search(engine, request=TINY)
        assert not built.result.cached and winner(built) == "delay_us=300"
    assert search(engine, request=TINY).result.cached


def test_an_engine_that_nobody_has_is_named(search: Search) -> None:
    with pytest.raises(MissingError, match="there is no engine `tpu`"):
        build_file(
            search._path,
            search._path,
            DEVICE,
            Request(engines=("tpu",)),
            Tools({}, (), (), Cache(search._cache), ""),
            Watcher(),
        )


def test_a_fixed_batch_is_measured_as_it_is(doubler: Doubler, tmp_path: Path) -> None:
    built = Search(doubler(batch=4), tmp_path / "cache")(FaultyEngine({"delay_us": 300}, {"delay_us": 900}))
    assert winner(built) == "delay_us=300"
    assert all([t.batch for t in c.timings] == [1] for c in built.result.certificates)


@pytest.mark.parametrize(("total_mib", "loaded"), [(320, 2), (180, 1)])
def test_more_contenders_than_memory_are_timed_in_pairs_or_one_by_one(
    tmp_path: Path, total_mib: int, loaded: int
) -> None:
    settings = [{"delay_us": delay, "mib": 64} for delay in (400, 800, 1200, 1600)]
    contenders = [
        Contender(Build("g", DEVICE.target, "faulty", Precision.FP32, settings=one), Path("m"), 0) for one in settings
    ]
    write_values(tmp_path / "in.npz", {"x": np.ones((1, 2), np.float32)})
    arena = Arena(COMMAND, tmp_path, DEVICE, Limits(1 << 30, total_mib << 20))
    most: list[int] = []
    failed: list[WorkerFailed] = []
    try:
        assert not arena.fit_together(contenders)
        for rival in contenders[1:]:
            time_round(arena, contenders[0], [rival], tmp_path / "in.npz", 1, 0.1, lambda _, e: failed.append(e))
            most.append(len(arena._workers))
    finally:
        arena.close()
    assert max(most) == loaded and not failed, "never more than there is room for"
    assert all(len(c.samples[1].blocks) == 5 for c in contenders[1:])
    medians = [sorted(c.samples[1].ratios)[2] for c in contenders]
    assert medians == sorted(medians)


def test_a_contender_that_waits_gives_back_what_only_its_calls_need(tmp_path: Path) -> None:
    first, second = (
        Contender(
            Build("g", DEVICE.target, "faulty", Precision.FP32, settings={"scratch_mib": 200, "n": n}), Path("m"), 0
        )
        for n in (1, 2)
    )
    inputs = tmp_path / "in.npz"
    write_values(inputs, {"x": np.ones((1, 2), np.float32)})
    arena = Arena(COMMAND, tmp_path, DEVICE, Limits(1 << 30, 420 << 20))
    try:
        for one in (first, second):
            worker = arena.ready(one, [first.id])
            worker.call("run", 10.0, inputs=str(inputs), outputs=str(tmp_path / "out.npz"))
            one.row_bytes = 200 << 20
            arena.rest(one, inputs)
            assert one.running_bytes > 200 << 20 > memory_bytes(worker.pid)
        assert arena.crowded, "both stay loaded, since only one of them runs"
    finally:
        arena.close()


def test_one_that_outgrows_its_memory_is_told_from_one_that_only_lacked_room_beside_others(search: Search) -> None:
    engine = FaultyEngine({"scratch_mib": 100}, {"scratch_mib": 250}, {"scratch_mib": 600})
    built = search(engine, request=replace(LONG, budget_s=12.0))
    assert {name for name in labels(built.result).values()} == {"scratch_mib=100", "scratch_mib=250"}
    reason = refusals(built.result)["scratch_mib=600"]
    assert reason.startswith("it used ") and reason.endswith("allow more with `--memory`")


def test_a_model_that_needs_more_memory_than_a_build_should_take_is_built_all_the_same(search: Search) -> None:
    built = search(FaultyEngine({"scratch_mib": 700}), request=LONG)
    assert winner(built) == "scratch_mib=700" and not built.result.refused


def test_limits_leave_room_for_two_and_never_take_the_whole_machine() -> None:
    for weights in (0, 10 << 20, 4 << 30):
        child, together = estimate_limits(weights, 8 << 30, 0)
        assert child <= 0.8 * (8 << 30) and together >= 2 * (120 << 20) + weights * 3
    assert estimate_limits(1, 8 << 30, 5 << 20)[0] == 5 << 20
    assert estimate_limits(1, 0, 0)[0] > 1 << 30, "a machine that does not say its memory is no machine without any"


def test_a_hanging_load_takes_no_longer_than_it_was_given(tmp_path: Path) -> None:
    build = Build("g", DEVICE.target, "faulty", Precision.FP32, settings={"fault": "hang"})
    arena = Arena(COMMAND, tmp_path, DEVICE, Limits(1 << 30, 1 << 30, load_s=0.7))
    began = time.monotonic()
    with pytest.raises(WorkerFailed, match="`load` took longer than 0.7 s"):
        arena.ready(Contender(build, Path("m"), 0))
    assert time.monotonic() - began < 10
    arena.close()


def test_builds_that_compile_for_each_size_begin_anew_where_there_is_no_room_for_two(tmp_path: Path) -> None:
    build = Build("g", DEVICE.target, "faulty", Precision.FP32)
    arena = Arena(COMMAND, tmp_path, DEVICE, Limits(1 << 30, 700 << 20))
    running = Contender(build, Path("m"), 0, running_bytes=300 << 20, row_bytes=40 << 20)
    assert arena.fit_again([running, running])
    running.row_bytes = 60 << 20
    assert not arena.fit_again([running, running])
