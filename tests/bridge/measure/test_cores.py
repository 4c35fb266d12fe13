"""A machine that gives half a core must be noticed, and one that gives all must not be waited for."""

import hashlib
import os
import threading
import time

import pytest

from tilth.bridge.measure import cores
from tilth.bridge.measure.cores import Cores


class Machine:
    """Stands for a machine: nanoseconds of one that works alone, 100, and of all together, as a test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.together_ns = 100
        monkeypatch.setattr(Cores, "_slowest_ns", lambda _, orders: 100 if len(orders) == 1 else self.together_ns)


def test_cores_shared_with_another_are_told_from_those_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    looked = Cores(2)
    assert looked.are_clear()
    machine.together_ns = 160
    assert not looked.are_clear()
    machine.together_ns = 105
    assert looked.are_clear()


def test_a_machine_whose_threads_always_share_cores_is_clear_at_its_own_best(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.together_ns = 160
    looked = Cores(8)
    assert not looked.are_clear(), "it may have begun while the machine gave half of its cores"
    assert looked.wait(time.monotonic() + 60)
    assert looked.are_clear()
    machine.together_ns = 300
    assert not looked.are_clear()


def test_waiting_ends_when_the_cores_are_back_or_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    looked = Cores(2)
    assert looked.wait(0.0)
    machine.together_ns = 160
    began = time.monotonic()
    assert not looked.wait(began + 0.05)
    assert 0.05 <= time.monotonic() - began < 5
    timer = threading.Timer(0.1, setattr, (machine, "together_ns", 100))
    timer.start()
    assert looked.wait(began + 60)


@pytest.mark.parametrize("count", [1, 2, 100])
def test_real_cores_are_looked_at_and_left_as_they_were(count: int) -> None:
    before, threads = os.sched_getaffinity(0), threading.active_count()
    looked = Cores(count)
    began = time.monotonic()
    for _ in range(3):
        looked.are_clear()
    assert time.monotonic() - began < 10
    assert os.sched_getaffinity(0) == before
    del looked
    ends = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < ends:
        time.sleep(0.01)
    assert threading.active_count() <= threads, "threads stay behind"


def test_the_work_leaves_the_lock_to_others() -> None:
    # With the lock held, two threads would always take twice the time of one, and no core would ever be clear.
    assert len(cores._WORK) > 2047 and hashlib.blake2b(cores._WORK).digest_size == 64
