"""Halving: nobody who may be the fastest goes home early."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.bridge.halving import decided, halve, rounds
from tilth.bridge.measure.timing import Samples, quantile

_ratios = st.lists(st.integers(50, 5000), min_size=1, max_size=7)


def samples(*ratios: float) -> Samples:
    made = Samples()
    for ratio in ratios:
        made.add([round(ratio * 1000)], 1000)
    return made


def test_one_whose_quartiles_overlap_those_of_the_best_stays() -> None:
    field = {f"clear{i}": samples(1, 1, 1) for i in range(3)} | {
        "lucky": samples(0.5, 1.0, 9, 9, 9),
        "slow": samples(3, 3, 3),
        "slower": samples(4, 4, 4),
    }
    verdict = halve(field)
    assert "lucky" in verdict.survivors, "its lower quartile is as fast as the best"
    assert set(verdict.dropped) == {"slow", "slower"}, "and those who cannot be the fastest go"


def test_those_who_go_are_told_how_far_behind_they_were() -> None:
    verdict = halve({"a": samples(1), "b": samples(1), "c": samples(2), "d": samples(3)})
    assert verdict.survivors == ("a", "b")
    assert verdict.dropped["d"].startswith("3.00 ")


def test_it_is_decided_only_when_no_block_of_a_slower_one_came_near_the_fastest() -> None:
    fast = samples(*[1.0] * 6)
    assert decided({"a": fast, "b": samples(*[1.1] * 6), "c": samples(*[2.0] * 9)})
    assert not decided({"a": fast, "b": samples(*[1.1] * 5, 1.01)}), "one block came near"
    assert not decided({"a": fast, "b": samples(*[2.0] * 3)}), "three blocks are few"
    assert not decided({"a": samples(1.0, 1.0), "b": samples(*[2.0] * 9)})


def test_two_stay_whatever_happens() -> None:
    assert halve({"a": samples(1), "b": samples(100)}).survivors == ("a", "b")
    assert halve({"a": samples(1)}).survivors == ("a",)
    assert halve({"a": samples(1), "b": samples(5)}, keep_at_least=1).survivors == ("a",)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), _ratios, min_size=1, max_size=9))
def test_the_best_survives_and_everyone_is_accounted_for(field: dict[str, list[int]]) -> None:
    made = {name: samples(*(ratio / 1000 for ratio in ratios)) for name, ratios in field.items()}
    verdict = halve(made)
    middle = {name: quantile(s.ratios, 0.5) for name, s in made.items()}
    best = min(middle, key=lambda name: (middle[name], name))
    assert verdict.survivors[0] == best
    assert sorted((*verdict.survivors, *verdict.dropped)) == sorted(made)
    assert len(verdict.survivors) >= min(len(made), max(2, (len(made) + 1) // 2))
    high = quantile(made[best].ratios, 0.75)
    assert all(quantile(made[name].ratios, 0.25) > high for name in verdict.dropped)
    assert halve(dict(reversed(made.items()))) == verdict


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 600), st.integers(0, 200))
def test_rounds_share_the_time_and_suffice_to_get_from_many_to_two(seconds: float, count: int) -> None:
    plan = rounds(seconds, count)
    assert len(plan) == max(1, math.ceil(math.log2(max(count, 2)))) and len(set(plan)) == 1
    assert sum(plan) >= seconds - 1e-6 and plan[0] >= 0.02 * count
