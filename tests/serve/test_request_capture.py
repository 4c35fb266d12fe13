"""Captured requests: within their budget, for their owner alone, and never at the cost of a request."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.bridge.value_file import MOST_ARRAYS, read_values
from tilth.core.errors import InvalidError, MissingError, RefusedError, UnavailableError
from tilth.serve.capture import MOST_BYTES, Capture

INPUTS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
OUTPUTS = {"y": np.array([1, 0])}
BUDGET = 1 << 20

_WRITES = """
import sys
from pathlib import Path
import numpy as np
from tilth.serve.capture import Capture
capture = Capture(Path(sys.argv[1]), 1.0, int(sys.argv[2]))
values = {"x": np.zeros(1000)}
kept = 0
while capture.keep("m", "1", "id", values, {}, {}):
    kept += 1
    if kept == int(sys.argv[3]):
        break
print(kept)
"""
_FAILS = """
import resource, sys
from pathlib import Path
import numpy as np
from tilth.serve.capture import Capture
said = []
capture = Capture(Path(sys.argv[1]), 1.0, 1 << 30, say=said.append)
assert capture.keep("m", "1", "id", {"x": np.zeros(10)}, {}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for _ in range(3):
    assert not capture.keep("m", "1", "id", {"x": np.zeros(100_000)}, {}, {})
assert not capture.wants() and len(said) == 1 and "File too large" in said[0], said
"""


def keep(capture: Capture, inputs: Any = None, **note: Any) -> bool:
    return capture.keep("digits", "3", "r-1", INPUTS if inputs is None else inputs, OUTPUTS, note)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def index(folder: Path) -> list[dict[str, Any]]:
    paths = folder.glob("index-*.jsonl")
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_asked_and_answered_comes_back(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "c", 1.0, BUDGET)
    inputs = {**INPUTS, "text": np.array(["a", "é"], object), "many": [np.ones(2), np.zeros(3)], "none": None}
    assert keep(capture, inputs, ms=1.5, build="b1")
    (path,), (line,) = files(tmp_path / "c"), index(tmp_path / "c")
    back: Any = read_values(path)
    assert set(back) == {"in.x", "in.text", "in.many", "out.y"}
    assert np.array_equal(back["in.x"], INPUTS["x"]) and back["in.text"].tolist() == ["a", "é"]
    assert [part.tolist() for part in back["in.many"]] == [[1, 1], [0, 0, 0]]
    assert (line["file"], line["model"], line["version"], line["request"]) == (path.name, "digits", "3", "r-1")
    assert line["note"] == {"ms": 1.5, "build": "b1"}
    assert re.fullmatch(rf"\d{{8}}T\d{{9}}Z-{os.getpid()}-1\.npz", path.name)


def test_nobody_else_can_read_what_users_sent(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keep(Capture(tmp_path / "c", 1.0, BUDGET))
    finally:
        os.umask(before)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()] == [0o600, 0o600]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_that_others_write_in_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(mode)
    with pytest.raises(RefusedError, match="not there yet"):
        Capture(tmp_path / "c", 1.0, BUDGET)


def test_a_folder_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        Capture(tmp_path / "absent" / "c", 1.0, BUDGET)
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError):
        Capture(tmp_path / "file", 1.0, BUDGET)


@pytest.mark.parametrize(("share", "budget"), [(-0.1, 1), (1.1, 1), (float("nan"), 1), (0.5, -1)])
def test_a_share_or_a_budget_that_makes_no_sense_is_refused(tmp_path: Path, share: float, budget: int) -> None:
    with pytest.raises(InvalidError):
        Capture(tmp_path / "c", share, budget)


@pytest.mark.parametrize("evil", ["../../evil", "/etc/evil", "a/b", "..", "\0", "x" * 5000, "a\nb", "%2e%2e%2f"])
def test_names_from_clients_are_no_part_of_a_path(tmp_path: Path, evil: str) -> None:
    capture = Capture(tmp_path / "c", 1.0, BUDGET)
    assert capture.keep(evil, evil, evil, INPUTS, OUTPUTS, {evil: evil})
    capture.keep(evil, evil, evil, {evil: np.ones(2)}, {evil: np.ones(2)}, {})
    assert os.listdir(tmp_path) == ["c"]
    assert all(
        re.fullmatch(r"[0-9TZ]+-\d+-\d+\.npz|index-\d+\.jsonl", path.name) for path in (tmp_path / "c").iterdir()
    )
    assert all(line["model"] == evil for line in index(tmp_path / "c"))


def test_capture_stops_within_its_budget_says_so_once_and_deletes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    capture = Capture(tmp_path / "c", 1.0, 50_000, say=said.append)
    kept = 0
    while keep(capture):
        kept += 1
    assert not keep(capture) and not capture.wants()
    assert said == [capture.stopped] and "50000 bytes" in said[0]
    assert 20 < kept == len(files(tmp_path / "c")) == len(index(tmp_path / "c"))
    assert 45_000 < size(tmp_path / "c") <= 50_000


@pytest.mark.parametrize("name", ["x", "n" * 4000, "é" * 2000])
def test_what_is_reserved_is_at_least_what_is_written(tmp_path: Path, name: str) -> None:
    capture = Capture(tmp_path / "c", 1.0, 200_000)
    while keep(capture, {name: np.zeros((1,) * 20), "s": [np.ones(1)] * 5}):
        pass
    assert 0 < size(tmp_path / "c") <= 200_000


def test_what_lies_there_already_counts(tmp_path: Path) -> None:
    assert keep(Capture(tmp_path / "c", 1.0, BUDGET))
    (tmp_path / "c" / "other").write_bytes(bytes(BUDGET))
    assert not keep(Capture(tmp_path / "c", 1.0, BUDGET))
    assert len(files(tmp_path / "c")) == 1


def test_what_other_processes_write_counts_after_a_while(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "c", 1.0, 10 * BUDGET)
    assert keep(capture)
    code = subprocess.run(
        [sys.executable, "-c", _WRITES, str(tmp_path / "c"), str(10 * BUDGET), "-1"],
        check=True,
        capture_output=True,
        text=True,
    )
    before = len(files(tmp_path / "c"))
    assert before == int(code.stdout) + 1
    while keep(capture):
        pass
    assert capture.stopped and len(files(tmp_path / "c")) <= before + 100


def test_processes_that_write_at_once_do_not_take_each_others_files(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir(mode=0o700)
    command = [sys.executable, "-c", _WRITES, str(tmp_path / "c"), str(100 * BUDGET), "60"]
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert len(files(tmp_path / "c")) == 120 == len({line["file"] for line in index(tmp_path / "c")})


def test_a_disk_that_fails_stops_capture_and_not_the_request(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FAILS, str(tmp_path / "c")], check=True)
    assert len(files(tmp_path / "c")) == len(index(tmp_path / "c")) == 1
    assert not list((tmp_path / "c").glob(".*"))


def test_a_folder_that_went_away_stops_capture_and_not_the_request(tmp_path: Path) -> None:
    said: list[str] = []
    capture = Capture(tmp_path / "c", 1.0, BUDGET, say=said.append)
    (tmp_path / "c").rmdir()
    assert not keep(capture) and not keep(capture)
    assert len(said) == 1 and "No such file" in said[0]


def test_a_listener_that_fails_does_not_fail_the_request(tmp_path: Path) -> None:
    def say(why: str) -> None:
        raise RuntimeError(why)

    assert not keep(Capture(tmp_path / "c", 1.0, 0, say=say))


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.array(["a\0"], object)},
        {"x": np.array([object()], object)},
        {"\ud800": np.ones(1)},
        {"x" * 70_000: np.ones(1)},
        {"x": [np.ones(1)] * (MOST_ARRAYS + 1)},
        {"x": np.ones(1, np.dtype([("a", "i4")]))},
        {"x": object()},
    ],
    ids=range(7),
)
def test_values_that_no_file_can_hold_are_passed_over(tmp_path: Path, inputs: Any) -> None:
    capture = Capture(tmp_path / "c", 1.0, 10 * BUDGET)
    assert not keep(capture, inputs)
    assert capture.skipped == 1 and not capture.stopped
    assert keep(capture) and len(files(tmp_path / "c")) == 1
    assert not list((tmp_path / "c").glob(".*"))


def test_values_that_cannot_be_written_do_not_use_up_the_budget(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "c", 1.0, 20_000)
    for _ in range(50):
        assert not keep(capture, {"x": np.array(["a\0" * 100], object)})
    assert capture.skipped == 50 and keep(capture)


def test_one_long_text_among_many_short_ones_is_no_bomb(tmp_path: Path) -> None:
    texts = np.array([""] * 100_000 + ["x" * 100_000], object)
    capture = Capture(tmp_path / "c", 1.0, 1 << 40)
    assert not keep(capture, {"x": texts})
    assert not keep(capture, {"x": np.zeros(MOST_BYTES, np.uint8)})
    assert capture.skipped == 2 and not capture.stopped and keep(capture)


def test_a_note_that_is_not_json_is_told_as_text(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "c", 1.0, BUDGET)
    assert keep(capture, path=Path("/a"), number=np.float32(0.5))
    assert index(tmp_path / "c")[0]["note"] == {"path": "/a", "number": "0.5"}


def test_the_same_seed_chooses_the_same_requests(tmp_path: Path) -> None:
    one, other = (Capture(tmp_path / "c", 0.3, BUDGET, seed=5) for _ in range(2))
    chosen = [one.wants() for _ in range(1000)]
    assert chosen == [other.wants() for _ in range(1000)] and 200 < sum(chosen) < 400


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (1.0, 1000)])
def test_none_and_all_are_meant(tmp_path: Path, share: float, wanted: int) -> None:
    capture = Capture(tmp_path / "c", share, BUDGET)
    assert sum(capture.wants() for _ in range(1000)) == wanted


def test_half_written_files_of_killed_processes_go_and_captures_stay(tmp_path: Path) -> None:
    keep(Capture(tmp_path / "c", 1.0, BUDGET))
    left, young = (tmp_path / "c" / f".20260101T000000000Z-1-{n}.npz.tmp" for n in (1, 2))
    for path in (left, young, *files(tmp_path / "c")):
        path.touch()
    for path in (left, *files(tmp_path / "c")):
        os.utime(path, (time.time() - 3600,) * 2)
    Capture(tmp_path / "c", 1.0, BUDGET)
    assert not left.exists() and young.exists() and len(files(tmp_path / "c")) == 1


def test_a_link_in_the_place_of_the_index_is_not_followed(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "c", 1.0, BUDGET)
    (tmp_path / "victim").touch()
    (tmp_path / "c" / f"index-{os.getpid()}.jsonl").symlink_to(tmp_path / "victim")
    assert not keep(capture) and capture.stopped
    assert not (tmp_path / "victim").stat().st_size
