"""Shares of traffic: they add up, whatever was deployed before, and nobody is left to answer nothing."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.control.traffic import MOST_VERSIONS, Shares, deployed, promoted
from tilth.core.errors import InvalidError

PERCENT = st.one_of(st.integers(0, 100), st.floats(0, 100), st.sampled_from([1e-9, 99.9999999, 33.333333]))
ORDERS = st.lists(st.tuples(st.integers(1, 12).map(str), PERCENT, st.one_of(st.just(0.0), PERCENT)), max_size=30)


def parts(shares: Shares) -> int:
    """Return the sum of the traffic in thousandths of a percent."""
    return sum(round(share * 1000) for share in shares.traffic.values())


@given(ORDERS)
def test_shares_add_up_to_a_hundred_whatever_was_deployed_before(orders: list[tuple[str, float, float]]) -> None:
    shares = Shares()
    for version, traffic, shadow in orders:
        with contextlib.suppress(InvalidError):
            shares = deployed(shares, version, traffic, shadow)
        assert parts(shares) == (100_000 if shares.traffic else 0)
        assert all(round(share, 3) == share and 0 < share <= 100 for share in shares.traffic.values())
        assert all(0 < share <= 100 for share in shares.shadow.values())
        assert not shares.traffic.keys() & shares.shadow.keys() and len(shares.versions) <= MOST_VERSIONS
        assert shares.traffic or not shares.shadow


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=7), st.floats(0.001, 99.999))
def test_the_others_keep_their_proportions(weights: list[float], traffic: float) -> None:
    whole = sum(weights)
    before = Shares({str(number): share / whole * 100 for number, share in enumerate(weights, start=1)})
    after = deployed(before, "9", traffic, 0)
    for version, share in before.traffic.items():
        assert after.traffic.get(version, 0) == pytest.approx(share * (100 - after.traffic["9"]) / 100, abs=0.0011)


@given(ORDERS.filter(bool))
def test_the_same_deployment_twice_is_the_same_as_once(orders: list[tuple[str, float, float]]) -> None:
    shares = Shares()
    for order in orders:
        with contextlib.suppress(InvalidError):
            shares = deployed(shares, *order)
            assert deployed(shares, *order).versions == shares.versions


def test_three_equal_versions_leave_nothing_over() -> None:
    third = deployed(deployed(Shares({"1": 100.0}), "2", 50, 0), "3", 100 / 3, 0)
    assert third.traffic == {"1": 33.334, "2": 33.333, "3": 33.333}


def test_the_first_version_answers_everything_whatever_it_is_given() -> None:
    assert deployed(Shares(), "1", 5, 0) == Shares({"1": 100.0})
    with pytest.raises(InvalidError, match="nobody would answer"):
        deployed(Shares(), "1", 0, 0)
    with pytest.raises(InvalidError, match="nobody would answer"):
        deployed(Shares({"1": 100.0}, {"2": 5.0}), "1", 0, 0)


def test_the_only_version_deployed_again_keeps_those_that_look_on() -> None:
    assert deployed(Shares({"1": 100.0}, {"2": 5.0}), "1", 100, 0) == Shares({"1": 100.0}, {"2": 5.0})


def test_all_traffic_for_one_leaves_no_other_version() -> None:
    assert deployed(Shares({"1": 60.0, "2": 40.0}, {"3": 5.0}), "4", 100, 0) == promoted("4") == Shares({"4": 100.0})


def test_almost_all_traffic_is_not_all_and_almost_none_not_none() -> None:
    assert deployed(promoted("1"), "2", 99.99999, 0).traffic == {"1": 0.001, "2": 99.999}
    assert deployed(promoted("1"), "2", 1e-12, 0).traffic == {"1": 99.999, "2": 0.001}
    assert deployed(promoted("1"), "2", 100, 1e-12).shadow == {"2": 0.001}


def test_no_traffic_takes_a_version_away() -> None:
    assert deployed(Shares({"1": 75.0, "2": 25.0}), "2", 0, 0) == promoted("1")
    assert deployed(Shares({"1": 100.0}, {"2": 25.0}), "2", 0, 0) == promoted("1")


def test_a_version_that_looks_on_gives_up_its_traffic() -> None:
    assert deployed(Shares({"1": 75.0, "2": 25.0}), "2", 100, 10) == Shares({"1": 100.0}, {"2": 10.0})
    assert deployed(Shares({"1": 100.0}, {"2": 25.0}), "2", 100, 10) == Shares({"1": 100.0}, {"2": 10.0})


def test_a_version_does_not_answer_and_look_on() -> None:
    with pytest.raises(InvalidError, match="either answers or looks on"):
        deployed(promoted("1"), "2", 50, 50)


@pytest.mark.parametrize("before", [Shares(), promoted("2")])
def test_nobody_looks_on_where_nobody_answers(before: Shares) -> None:
    with pytest.raises(InvalidError, match="only look on"):
        deployed(before, "2", 100, 10)


def test_an_endpoint_does_not_collect_versions_without_end() -> None:
    shares = promoted("1")
    for number in range(2, MOST_VERSIONS + 1):
        shares = deployed(shares, str(number), 10, 0)
    with pytest.raises(InvalidError, match="9 versions"):
        deployed(shares, "9", 10, 0)
    with pytest.raises(InvalidError, match="9 versions"):
        deployed(shares, "9", 100, 10)
    assert deployed(shares, "9", 100, 0) == promoted("9")


def test_a_row_gives_back_what_it_was_given() -> None:
    shares = Shares({"10": 60.0, "9": 40.0}, {"2": 1.5})
    assert Shares.of_json(shares.as_json()) == shares and shares.versions == ["2", "9", "10"]
    assert Shares.of_json({}) == Shares()
