"""Calls side by side in a runner: who gets the whole machine, who a lane, and that nobody is mixed up or forgotten."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server import Server, bundle, expected

from tilth.bridge.model import Model
from tilth.serve.batching import Batching
from tilth.serve.loading import Facts
from tilth.serve.runner import Runner
from tilth.serve.sentinel import Sentinel

#: What lanes add to every answer in these tests, so that it tells where it was made.
MARK = 1000.0
SLOW_MS = 300


def answers(server: Server, count: int) -> list[float]:
    """Return the first number of each answer to requests that are sent at once."""
    with ThreadPoolExecutor(count) as pool:
        replies = list(pool.map(lambda _: server.infer("m"), range(count)))
    assert [reply.status for reply in replies] == [200] * count
    return [reply.row[0] for reply in replies]


def test_a_call_that_is_alone_has_the_chosen_build_and_a_crowd_has_the_lanes(tmp_path: Path) -> None:
    made = bundle(tmp_path / "m.tilth", {"slow_ms": SLOW_MS}, lane={"slow_ms": SLOW_MS, "wrong_by": MARK})
    honest = expected()[0]
    with Server(f"m={made}", "--workers", 1) as server:
        for _ in range(2):
            assert answers(server, 1)[0] == pytest.approx(honest, abs=1e-3)
        began = time.monotonic()
        found = answers(server, 10)
        took_s = time.monotonic() - began
        # The first may have come alone.
        assert sum(one == pytest.approx(honest + MARK, abs=1e-3) for one in found) >= 9
        assert took_s < 10 * SLOW_MS / 1e3, "they ran one after the other"
        assert answers(server, 1)[0] == pytest.approx(honest, abs=1e-3)


def test_a_lane_that_hangs_is_found_while_the_other_goes_on(tmp_path: Path) -> None:
    lane = {"slow_ms": 50, "run": "hang", "after": 6}
    made = bundle(tmp_path / "m.tilth", {"slow_ms": 50}, lane=lane)
    with Server(f"m={made}", "--workers", 1) as server, ThreadPoolExecutor(4) as pool:
        deadline = time.monotonic() + 40
        replies: list[Any] = []
        while not any(reply.status == 503 for reply in replies):
            assert time.monotonic() < deadline, "nobody noticed"
            replies += pool.map(lambda _: server.infer("m"), range(4))
        assert any(reply.status == 200 for reply in replies)


def test_the_oldest_call_is_what_the_supervisor_sees(tmp_path: Path) -> None:
    sentinel = Sentinel(tmp_path / "page")
    runner = Runner.__new__(Runner)
    runner._came, runner._began, runner._sentinel, runner._slot = threading.Condition(), [], sentinel, 5
    for began in (100, 200, 300):
        runner._note(began, runner._began.append)
    seen = []
    for began in (200, 100, 300):
        seen.append(sentinel._words[1])
        runner._note(began, runner._began.remove)
    assert seen == [100, 100, 300] and sentinel.running() is None


class Crowd:
    """Which thread of a runner may take what, by how many wait and run."""

    def __init__(self, *, lanes: int) -> None:
        model: Any = Model.__new__(Model)
        self.runner = Runner.__new__(Runner)
        self.runner._lanes = [model] * lanes
        self.runner._waiting, self.runner._busy, self.runner._abreast = [], 0, 0  # type: ignore[assignment]

    def may(self, *, waiting: int, busy: int, abreast: int) -> tuple[bool, bool]:
        self.runner._waiting = [object()] * waiting  # type: ignore[assignment]
        self.runner._busy, self.runner._abreast = busy, abreast
        return self.runner._may(False), self.runner._may(True)


@pytest.mark.parametrize(
    ("waiting", "busy", "abreast", "whole", "lane"),
    [
        (0, 0, 0, False, False),
        (1, 0, 0, True, False),
        (2, 0, 0, False, True),
        (1, 1, 0, False, False),
        (5, 1, 0, False, False),
        (1, 1, 1, False, True),
        (1, 2, 2, False, True),
        (0, 1, 1, False, False),
    ],
)
def test_no_two_calls_share_cores_that_one_has_for_itself(
    waiting: int, busy: int, abreast: int, whole: bool, lane: bool
) -> None:
    assert Crowd(lanes=2).may(waiting=waiting, busy=busy, abreast=abreast) == (whole, lane)
    assert Crowd(lanes=0).may(waiting=waiting, busy=0, abreast=0)[0] is (waiting > 0)


def test_what_facts_say_of_lanes_survives_the_way_to_another_process() -> None:
    from tilth.core.signature import Signature

    facts = Facts("m", "", Signature((), ()), "b", "b", "ort", 30.0, False, Batching(), 60.0, 1 << 40, 0.0, lanes=3)
    assert Facts.of_json(facts.as_json()).lanes == 3
