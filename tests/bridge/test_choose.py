"""The choice: what wins, what never wins, and that everybody learns why."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.bridge.choose import TIE, choose
from tilth.core.build import Build, Precision
from tilth.core.certificate import Agreement, Certificate, Placement, Timing
from tilth.core.device import Device
from tilth.core.errors import RefusedError

DEVICE = Device("cpu:0", "cpu-x86_64", "a chip")


def timing(ratio: float, batch: int = 1, noise: float = 0.01) -> Timing:
    return Timing(batch, ratio, ratio, ratio, round(batch * 1000 / ratio, 3), 1000, noise, "anchor", ratio)


def entry(
    name: str, *timings: Timing, rms: float = 0.0, agrees: bool = True, reasons: Sequence[str] = ()
) -> tuple[Build, Certificate]:
    build = Build("g", "cpu-x86_64", name, Precision.FP32)
    return build, Certificate(
        build=build.id,
        device=DEVICE,
        agreement=Agreement(rms, rms, rms, 1, 1, 1, 4),
        agrees=agrees,
        tolerance="",
        timings=timings,
        placement=Placement("cpu", {"cpu": 1}, 0.0, "test"),
        peak_memory_bytes=1,
        load_memory_bytes=1,
        load_ms=1,
        versions={},
        inputs_digest="",
        measured_at="",
        reasons=tuple(reasons),
    )


def decided(*entries: tuple[Build, Certificate], **how: Any) -> tuple[str, dict[str, str]]:
    builds = [build for build, _ in entries]
    choice = choose("cpu-x86_64", builds, {c.build: c for _, c in entries}, **how)
    names = {build.id: build.engine for build in builds}
    return names[choice.build], {names[name]: why for name, why in choice.reasons.items()}


def test_a_fast_wrong_build_never_wins() -> None:
    wrong = entry("wrong", timing(0.01), agrees=False, reasons=["relative error 1 > 0.0001", "2 nodes elsewhere"])
    winner, reasons = decided(wrong, entry("slow", timing(5.0)))
    assert winner == "slow"
    assert reasons == {"wrong": "relative error 1 > 0.0001; 2 nodes elsewhere"}


def test_every_loser_has_its_reason() -> None:
    unmeasured = Build("g", "cpu-x86_64", "unmeasured", Precision.FP32)
    entries = [
        entry("best", timing(1.0)),
        entry("tied", timing(1.005), rms=1e-6),
        entry("slow", timing(2.0)),
        entry("slower", timing(3.0)),
        entry("untimed"),
        entry("wrong", agrees=False, reasons=["no"]),
    ]
    certificates = {c.build: c for _, c in entries}
    builds = [build for build, _ in entries] + [unmeasured]
    choice = choose("cpu-x86_64", builds, certificates)
    reasons = {b.engine: choice.reasons[b.id] for b in builds if b.id != choice.build}
    assert len(reasons) == 6 and all(reasons.values())
    assert reasons["slow"].startswith("2.00 ") and reasons["slower"].startswith("3.00 ")
    assert "within 1%" in reasons["tied"] and reasons["unmeasured"] == "never measured"
    assert "never timed" in reasons["untimed"] and reasons["wrong"] == "no"


def test_a_tie_goes_to_the_smaller_error_and_no_further() -> None:
    assert decided(entry("a", timing(1.0), rms=1e-3), entry("b", timing(1.009), rms=1e-6))[0] == "b"
    assert decided(entry("a", timing(1.0), rms=1e-3), entry("b", timing(1.011), rms=1e-6))[0] == "a"
    assert decided(entry("b", timing(1.0)), entry("a", timing(1.0)))[0] == "a", "the label settles what is left"


def test_no_tie_is_handed_from_one_to_the_next() -> None:
    chain = [entry(name, timing(1 + 0.009 * i), rms=1e-3 / (i + 1)) for i, name in enumerate("abcdef")]
    winner, _ = decided(*chain)
    assert winner == "b", "only those within 1 % of the fastest tie with it"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 2), st.sampled_from([0.0, 1e-6, 1e-5]), st.booleans()), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_same_measurements_give_the_same_choice_in_any_order(
    kinds: list[tuple[float, float, bool]], shuffler: random.Random
) -> None:
    entries = [entry(f"e{i}", timing(r), rms=rms, agrees=ok) for i, (r, rms, ok) in enumerate(kinds)]
    entries.append(entry("last", timing(4.0)))
    first = decided(*entries)
    shuffler.shuffle(entries)
    assert decided(*entries) == first
    by_name = {build.engine: c for build, c in entries}
    fastest = min(c.timings[0].ratio for c in by_name.values() if c.agrees)
    assert by_name[first[0]].agrees and by_name[first[0]].timings[0].ratio <= fastest * (1 + TIE)


def test_throughput_counts_the_best_rate_at_any_batch_and_latency_the_smallest() -> None:
    quick = entry("quick", timing(1.0, 1), timing(8.0, 8))
    wide = entry("wide", timing(2.0, 1), timing(4.0, 8))
    assert decided(quick, wide)[0] == "quick"
    assert decided(quick, wide, goal="throughput")[0] == "wide"
    builds = [quick[0], wide[0]]
    choice = choose("cpu-x86_64", builds, {c.build: c for _, c in (quick, wide)}, "throughput")
    assert choice.batch == 8 and choice.goal == "throughput"


def test_nothing_that_agrees_is_an_error_that_tells_why() -> None:
    wrong = [entry(f"w{i}", timing(1.0), agrees=False, reasons=[f"because {i}"]) for i in range(9)]
    with pytest.raises(RefusedError, match="no build for `cpu-x86_64` agrees") as caught:
        decided(*wrong)
    assert "w0 fp32: because 0" in caught.value.why and "because 6" not in caught.value.why
    with pytest.raises(RefusedError) as caught:
        choose("cpu-x86_64", [], {})
    assert caught.value.why == "no engine could make one"


def test_a_busy_machine_is_said_to_have_been_busy() -> None:
    build, certificate = entry("a", timing(1.0, noise=0.2))
    assert choose("t", [build], {build.id: certificate}).noisy
    calm = replace(certificate, timings=(timing(1.0, noise=0.05),))
    assert not choose("t", [build], {build.id: calm}).noisy


def test_a_ratio_that_is_nearly_nothing_divides_nothing_by_zero() -> None:
    assert decided(entry("a", timing(1e-6)), entry("b", timing(1.0)))[1]["b"].startswith("1000000.00 ")
