"""Where a version runs, what follows a death, when requests are joined, and who sees what share: the pure parts."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import tilth
from tilth import wiring
from tilth.core.certificate import Agreement, Certificate, Lanes, Placement, Timing
from tilth.core.device import Device
from tilth.core.errors import InvalidError
from tilth.core.signature import Signature, TensorSpec
from tilth.serve.batching import batching
from tilth.serve.loading import load
from tilth.serve.plan import Standing, respawn_after_s, runs_inline, struck
from tilth.serve.traffic import Policy, Splitter
from tilth.testing.models import perceptron

ROWS = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch",)),))
POOLED = Signature(ROWS.inputs, (TensorSpec("y", "float32", (1,)),))


def certified(*timings: tuple[int, float]) -> Certificate:
    told = tuple(Timing(batch, batch / rows_per_s * 1e3, 1, 1, rows_per_s, 9, 0.0) for batch, rows_per_s in timings)
    agreement, placement = Agreement(0, 0, 0, 1, 1, 1, 1), Placement("c", {}, 0, "")
    return Certificate("b", Device("d", "t", "n"), agreement, True, "", told, placement, 1, 1, 1, {}, "", "")


def test_a_build_on_the_event_loop_leaves_the_other_cores_to_others(tmp_path: Path) -> None:
    small, bundle = perceptron(), tmp_path / "m.tilth"
    onnx.save(small.model, tmp_path / "m.onnx")
    tilth.import_model(tmp_path / "m.onnx", {"x": np.ones((4, 8), np.float32)}, out=bundle)
    tilth.build(bundle, budget_s=5.0, batches=(1,), engines=("ort",))
    threads = {}
    for alone in (True, False):
        model, facts = load(bundle, wiring.this_device(), wiring.engines(), alone=alone)
        model.close()
        threads[alone] = "threads=1" in facts.label
    assert threads[False], "its threads would spin beside those that read and write sockets"


@pytest.mark.parametrize(
    ("timings", "most"),
    [
        ([(1, 100), (8, 300), (32, 250)], 8),
        ([(1, 100), (8, 109), (32, 105)], 1),
        ([(1, 100), (8, 90)], 1),
        ([(1, 100)], 1),
        ([], 1),
    ],
)
def test_requests_are_joined_only_where_a_larger_batch_was_measured_to_pay(
    timings: list[tuple[int, float]], most: int
) -> None:
    found = batching(certified(*timings), ROWS)
    assert found.most_rows == most and found.on is (most > 1)


def test_the_first_of_a_batch_waits_a_fraction_of_what_it_takes_alone() -> None:
    assert batching(certified((1, 100), (8, 400)), ROWS).wait_s == pytest.approx(0.002)


def test_rows_that_cannot_be_told_apart_are_never_joined() -> None:
    assert not batching(certified((1, 100), (8, 400)), POOLED).on


def test_a_batch_has_to_gain_more_than_lanes_for_which_nobody_waits() -> None:
    slower, faster = certified((1, 100), (8, 120)), certified((1, 100), (8, 400))
    lanes = Lanes(2, 1, 20, 20, 110, 10, "b", 1.1, 1.05, 1.15)
    assert batching(slower, ROWS).on and not batching(slower, ROWS, lanes).on
    assert batching(faster, ROWS, lanes).most_rows == 8


def test_a_small_build_that_could_cost_another_model_a_request_does_not_run_inline() -> None:
    calm = Standing()
    assert runs_inline(small=True, alone=True, standing=calm, isolation="auto")
    assert not runs_inline(small=True, alone=False, standing=calm, isolation="auto")
    assert not runs_inline(small=True, alone=True, standing=calm, isolation="always")
    assert not runs_inline(small=False, alone=True, standing=calm, isolation="never")
    assert runs_inline(small=True, alone=False, standing=calm, isolation="never")


def test_one_death_moves_a_version_out_of_the_workers_and_three_are_a_quarantine() -> None:
    standing = Standing()
    for strikes in (1, 2, 3):
        standing = struck(standing)
        assert standing.strikes == strikes and standing.quarantined is (strikes == 3)
        assert not runs_inline(small=True, alone=True, standing=standing, isolation="never")


def test_a_process_that_dies_at_its_start_again_and_again_is_not_started_in_a_tight_loop() -> None:
    assert respawn_after_s(60, 9) == 0 and respawn_after_s(0.1, 1) == 0
    waits = [respawn_after_s(0.1, deaths) for deaths in range(3, 20)]
    assert waits == sorted(waits) and 0 < waits[0] < 1 and waits[-1] <= 10


def test_weights_are_kept_over_many_requests() -> None:
    splitter = Splitter(Policy("all", {"1": 90, "2": 10}), ["1", "2", "3"])
    picked = [splitter.pick(chance / 1000) for chance in range(1000)]
    assert picked.count("1") == 900 and picked.count("2") == 100


def test_a_version_that_is_not_ready_gets_no_traffic_and_the_others_take_its_share() -> None:
    splitter = Splitter(Policy("all", {"1": 90, "2": 10}), ["2"])
    assert splitter.only == "2" and splitter.pick(0.5) == "2"


def test_a_shadow_answers_nobody_unless_it_has_a_share_of_the_traffic() -> None:
    policy = Policy("latest", {}, {"3": 0.05})
    splitter = Splitter(policy, ["2", "3"])
    assert splitter.pick(0.999) == "2" and splitter.shadows == [("3", 0.05)]
    assert policy.served(["1", "2", "3"]) == ["2", "3"], "the newest that is no shadow answers"


def test_the_newest_version_is_the_largest_number_and_not_the_last_word() -> None:
    assert Policy().served(["9", "10", "2"]) == ["10"]
    assert Policy("all").served(["10", "9", "b", "a"]) == ["9", "10", "a", "b"]
    assert Policy(("2", "9")).served(["9", "10", "2"]) == ["2", "9"]


def test_a_version_that_is_named_and_not_there_is_told() -> None:
    with pytest.raises(InvalidError, match="no version `7`"):
        Policy(("7",)).served(["1"])
