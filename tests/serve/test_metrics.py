"""Counters: what a killed worker counted stays, and whoever reads them reads sums that Prometheus can use."""

import os
import re
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tilth.core.errors import MissingError, UnavailableError
from tilth.serve.metrics import (
    BATCHES,
    FILE_BYTES,
    LATENCY_S,
    MOST_UNITS,
    NO_UNIT,
    REASONS,
    Meter,
    Unit,
    prometheus,
    read_all,
    statistics,
)

UNIT = Unit(3, "digits", "7", "b" * 12, 0.25)

_COUNTS = """
import os, signal, sys
from pathlib import Path
from tilth.serve.metrics import Meter
meter = Meter(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    meter.begin(3)
    meter.executed(3, 2, 5)
    meter.done(3, 2, 10, 20, 300)
    if number + 1 < int(sys.argv[2]):
        meter.end(3)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""
_FOREVER = """
import sys
from pathlib import Path
from tilth.serve.metrics import Meter
meter = Meter(Path(sys.argv[1]))
print("begins", flush=True)
while True:
    meter.begin(3)
    meter.done(3, 1, 10, 20, 300)
    meter.end(3)
"""


def counting(path: Path, times: int, end: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _COUNTS, str(path), str(times), end])


def stats(*paths: Path, unit: Unit = UNIT) -> Any:
    return statistics([unit], read_all(paths))["model_stats"][0]


def samples(text: str) -> dict[str, float]:
    """Return the samples of an exposition that is well formed line by line."""
    label = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
    found, typed = {}, ""
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            typed = line.split(" ")[2]
        if line.startswith("#"):
            continue
        match = re.fullmatch(rf"([a-z_]+)(\{{{label}(?:,{label})*\}})? (\S+)", line)
        assert match, line
        assert match[1] in {typed, f"{typed}_bucket", f"{typed}_sum", f"{typed}_count"}
        assert f"{match[1]}{match[2]}" not in found, line
        found[f"{match[1]}{match[2]}"] = float(match[3])
    return found


def test_counts_of_a_killed_worker_stay_and_its_successor_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "w0"
    first = counting(path, 100, "killed")
    assert first.wait() == -signal.SIGKILL
    assert stats(path)["inference_count"] == 200
    assert counting(path, 50, "ends").wait() == 0
    found = stats(path)
    assert found["inference_count"] == 300 and found["execution_count"] == 150
    assert found["inference_stats"]["success"] == {"count": 150, "ns": 45_000}


def test_a_worker_killed_at_any_moment_leaves_counters_that_differ_by_one_request_at_most(tmp_path: Path) -> None:
    path = tmp_path / "w0"
    with subprocess.Popen([sys.executable, "-c", _FOREVER, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begins\n"
        while stats(path)["inference_count"] < 5000:
            pass
        child.kill()
    found = stats(path)
    rows, success = found["inference_count"], found["inference_stats"]["success"]
    assert rows - success["count"] in {0, 1} and success["ns"] % 300 == 0 and rows - success["ns"] // 300 in {0, 1}
    meter = Meter(path)
    meter.done(3, 1, 10, 20, 300)
    assert stats(path)["inference_count"] == rows + 1


def test_requests_in_progress_of_a_killed_worker_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "w0"
    assert counting(path, 3, "killed").wait() == -signal.SIGKILL
    name = 'tilth_requests_in_progress{model="digits",version="7",build="bbbbbbbbbbbb"}'
    assert samples(prometheus([UNIT], read_all([path]), {}))[name] == 1
    Meter(path)
    assert samples(prometheus([UNIT], read_all([path]), {}))[name] == 0


def test_a_third_process_sums_what_two_count(tmp_path: Path) -> None:
    children = [counting(tmp_path / name, times, "ends") for name, times in (("w0", 70), ("w1", 30))]
    assert [child.wait() for child in children] == [0, 0]
    found = stats(tmp_path / "w0", tmp_path / "w1")
    assert found["inference_count"] == 200 and found["execution_count"] == 100
    assert found["inference_stats"]["queue"] == {"count": 100, "ns": 1000}
    assert found["inference_stats"]["compute_infer"] == {"count": 100, "ns": 2000}
    # A time is no count: the latest of all processes, not their sum.
    assert abs(found["last_inference"] - time.time() * 1000) < 3_600_000


def test_files_that_are_not_counters_are_left_out(tmp_path: Path) -> None:
    good = tmp_path / "good"
    Meter(good).done(3, 1, 0, 0, 1)
    (tmp_path / "short").write_bytes(good.read_bytes()[:-8])
    (tmp_path / "long").write_bytes(good.read_bytes() + bytes(8))
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = ("good", "short", "long", "empty", "folder", "pipe", "absent")
    assert stats(*(tmp_path / name for name in names))["inference_count"] == 1
    assert stats()["inference_count"] == 0


def test_a_file_of_another_size_is_replaced_and_never_cut_under_who_has_it_mapped(tmp_path: Path) -> None:
    path = tmp_path / "w0"
    path.write_bytes(b"something else")
    before = path.stat().st_ino
    Meter(path).done(3, 1, 0, 0, 1)
    assert path.stat().st_size == FILE_BYTES and path.stat().st_ino != before
    assert path.stat().st_mode & 0o777 == 0o600
    assert stats(path)["inference_count"] == 1 and os.listdir(tmp_path) == ["w0"]


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"not ours")
    (tmp_path / "w0").symlink_to(tmp_path / "other")
    Meter(tmp_path / "w0").done(3, 1, 0, 0, 1)
    assert (tmp_path / "other").read_bytes() == b"not ours" and not (tmp_path / "w0").is_symlink()


def test_a_file_that_cannot_be_made_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="mkdir -p"):
        Meter(tmp_path / "absent" / "w0")
    (tmp_path / "w0").mkdir()
    with pytest.raises(UnavailableError):
        Meter(tmp_path / "w0")


def test_a_cleared_slot_starts_at_nothing_while_failures_never_fall(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "w0")
    meter.begin(3)
    meter.done(3, 4, 1, 2, 3)
    meter.executed(3, 4, 2)
    meter.failed(3, "engine", 5)
    meter.failed(NO_UNIT, "missing")
    before = samples(prometheus([UNIT], read_all([tmp_path / "w0"]), {}))
    meter.clear(3)
    after = samples(prometheus([UNIT], read_all([tmp_path / "w0"]), {}))
    assert before['tilth_refused_total{reason="engine"}'] == after['tilth_refused_total{reason="engine"}'] == 1
    assert after['tilth_refused_total{reason="missing"}'] == 1
    assert not any(number for name, number in after.items() if "digits" in name and "fallback" not in name)
    # The request that was in progress ends after its slot was cleared.
    meter.end(3)
    assert stats(tmp_path / "w0")["inference_count"] == 0


def test_slots_do_not_count_into_one_another(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "w0")
    for slot in (0, 1, MOST_UNITS - 1):
        for reason in REASONS:
            meter.failed(slot, reason, 7)
        for rows in (1, 5000):
            meter.executed(slot, rows, 9)
        for ns in (0, 10**12):
            meter.done(slot, 1, 1, 1, ns)
    totals = read_all([tmp_path / "w0"])
    rows = {slot: totals.of([slot]) for slot in (0, 1, 2, MOST_UNITS - 1, NO_UNIT)}
    assert not any(rows[2]) and not any(rows[NO_UNIT])
    for slot in (0, 1, MOST_UNITS - 1):
        found = stats(tmp_path / "w0", unit=Unit(slot, "m", "1", "b", 0.0))
        assert found["inference_stats"]["fail"] == {"count": 6, "ns": 42}
        assert found["execution_count"] == 2 and found["inference_count"] == 2


def test_a_reason_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Meter(tmp_path / "w0").failed(3, "bored")


def test_buckets_are_cumulative_and_hold_their_bounds(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "w0")
    times_ns = [0, 100_000, 100_001, 10**9, 10**10, 10**10 + 1, 10**13]
    for ns in times_ns:
        meter.done(3, 1, 0, 0, ns)
    for rows in (1, 2, 3, 4, 5, 1024, 1025):
        meter.executed(3, rows, 10)
    found = samples(prometheus([UNIT], read_all([tmp_path / "w0"]), {}))
    labels = 'model="digits",version="7",build="bbbbbbbbbbbb"'
    for bound in LATENCY_S:
        count = found[f'tilth_request_seconds_bucket{{{labels},le="{bound:g}"}}']
        assert count == sum(ns <= bound * 1e9 for ns in times_ns)
    batches = [found[f'tilth_batch_rows_bucket{{{labels},le="{bound}"}}'] for bound in (*BATCHES, "+Inf")]
    assert batches[:3] == [1, 2, 4] and batches[-2:] == [6, 7]
    assert all(one <= next_one for one, next_one in pairwise(batches))
    assert found[f'tilth_request_seconds_bucket{{{labels},le="+Inf"}}'] == 7
    assert found[f"tilth_request_seconds_count{{{labels}}}"] == 7
    assert found[f"tilth_request_seconds_sum{{{labels}}}"] == pytest.approx(sum(times_ns) / 1e9)
    assert found[f"tilth_batch_rows_sum{{{labels}}}"] == 2064 and found[f"tilth_executions_total{{{labels}}}"] == 7
    sizes = {entry["batch_size"]: entry["compute_infer"] for entry in stats(tmp_path / "w0")["batch_stats"]}
    assert sizes == {n: {"count": c, "ns": 10 * c} for n, c in ((1, 1), (2, 1), (4, 2), (8, 1), (1024, 1), (2048, 1))}


def test_names_cannot_break_out_of_their_labels(tmp_path: Path) -> None:
    evil = Unit(0, 'a"} 1\ntilth_x{y="\\', "\udcff", "é", 0.0)
    Meter(tmp_path / "w0").done(0, 1, 0, 0, 1)
    text = prometheus([evil], read_all([tmp_path / "w0"]), {})
    text.encode()
    found = samples(text)
    assert found[r'tilth_rows_total{model="a\"} 1\ntilth_x{y=\"\\",version="?",build="é"}'] == 1


def test_two_units_with_the_same_labels_are_one_sample(tmp_path: Path) -> None:
    twin = Unit(4, UNIT.model, UNIT.version, UNIT.build, 0.5)
    meter = Meter(tmp_path / "w0")
    meter.done(3, 1, 0, 0, 1)
    meter.done(4, 2, 0, 0, 1)
    totals = read_all([tmp_path / "w0"])
    found = samples(prometheus([UNIT, twin], totals, {"memory_bytes": {3: 100, 4: 20, 9: 7}, "queue_depth": {}}))
    labels = 'model="digits",version="7",build="bbbbbbbbbbbb"'
    assert found[f"tilth_rows_total{{{labels}}}"] == 3
    assert found[f"tilth_memory_bytes{{{labels}}}"] == 120
    assert found[f"tilth_fallback_share{{{labels}}}"] == 0.5
    assert [entry["inference_count"] for entry in statistics([UNIT, twin], totals)["model_stats"]] == [1, 2]


def test_every_metric_that_is_promised_is_there_with_help_and_type(tmp_path: Path) -> None:
    Meter(tmp_path / "w0").failed(NO_UNIT, "missing")
    text = prometheus([UNIT], read_all([tmp_path / "w0"]), {"memory_bytes": {3: 1.5}})
    typed = dict(re.findall(r"^# TYPE tilth_(\w+) (\w+)$", text, re.MULTILINE))
    assert typed == {
        "requests_total": "counter",
        "request_seconds": "histogram",
        "batch_rows": "histogram",
        "executions_total": "counter",
        "rows_total": "counter",
        "queue_seconds_total": "counter",
        "compute_seconds_total": "counter",
        "requests_in_progress": "gauge",
        "refused_total": "counter",
        "fallback_share": "gauge",
        "memory_bytes": "gauge",
    }
    assert re.findall(r"^# HELP tilth_(\w+) .", text, re.MULTILINE) == list(typed)
    assert text.endswith("\n") and samples(text)['tilth_refused_total{reason="missing"}'] == 1
    outcomes = re.findall(r'tilth_requests_total\{.*outcome="(\w+)"\}', text)
    assert outcomes == ["success", *REASONS]


def test_a_server_without_models_still_says_what_it_refused(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "w0")
    meter.failed(NO_UNIT, "missing")
    meter.close()
    assert samples(prometheus([], read_all([tmp_path / "w0"]), {}))['tilth_refused_total{reason="missing"}'] == 1
    assert statistics([], read_all([tmp_path / "w0"])) == {"model_stats": []}


def test_bounds_are_in_order_so_that_they_can_be_searched() -> None:
    assert list(LATENCY_S) == sorted(LATENCY_S) and bisect_left(LATENCY_S, 10.0) == len(LATENCY_S) - 1
