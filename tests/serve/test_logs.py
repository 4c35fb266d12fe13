"""Logs: a line is a line, whatever a client sends, and what cannot be written harms nobody."""

import io
import json
import os
import signal
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.errors import InvalidError
from tilth.serve.logs import LEVELS, MOST_BYTES, Log, request_id

_FORKS = """
import os, sys
from tilth.serve.logs import request_id
print(request_id(None), flush=True)
for _ in range(2):
    child = os.fork()
    if not child:
        print(request_id(None), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print(request_id(None), flush=True)
"""
_FULL_DISK = """
import resource, sys
from tilth.serve.logs import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
with open(sys.argv[1], "a", encoding="utf-8") as stream:
    log = Log(stream)
    while not log.lost:
        log.write("info", "fills", text="x" * 300)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write("info", "again")
    log.close()
"""


class Colour(StrEnum):
    RED = "red"


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no words")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    text = stream.getvalue()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@given(st.text(), st.text(), st.text(max_size=20))
def test_no_text_ends_a_line_or_moves_a_terminal(event: str, value: str, key: str) -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.write("error", event, value=value, **{f"k{key}": [value, {key: value}]})
    line = stream.getvalue()
    assert line.endswith("\n") and all(" " <= character <= "~" for character in line[:-1])
    assert json.loads(line)["value"] == value and json.loads(line)["event"] == event


@pytest.mark.parametrize(
    "evil", ["a\nb", "a\r\nb", "\x1b[2J", "\x7f", "\x85", "\x9b31m", "\u2028", "\ud800", "\0", '"}']
)
def test_what_a_client_sends_stays_in_its_field(evil: str) -> None:
    stream = io.StringIO()
    Log(stream).request(evil, evil, evil, evil, 400, 1.0, 2, 3, evil, evil)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert line.isascii() and line.isprintable()
    found = json.loads(line)
    assert [found[name] for name in ("id", "model", "version", "client", "error")] == [evil] * 5


def test_fields_cannot_change_the_time_the_level_or_the_event() -> None:
    stream = io.StringIO()
    Log(stream).write("info", "ready", **{"time": "never", "level": "error", "event": "x", "self": 1})
    (found,) = lines(stream)
    assert (found["level"], found["event"], found["self"]) == ("info", "ready", 1)
    assert (found["time_"], found["level_"], found["event_"]) == ("never", "error", "x")


def test_the_time_is_utc_with_milliseconds() -> None:
    stream = io.StringIO()
    Log(stream).write("info", "ready")
    assert len(lines(stream)[0]["time"]) == len("2026-01-01T00:00:00.000Z") and lines(stream)[0]["time"][-1] == "Z"


def test_values_that_are_not_json_become_text() -> None:
    stream = io.StringIO()
    values: dict[str, Any] = {
        "path": Path("/a"), "nan": float("nan"), "inf": float("-inf"), "number": np.float32(1.5), "bytes": b"\xff",
        "set": {1}, "broken": Broken(), "enum": Colour.RED, "huge": 1 << 70, "key": {3: None}, "pair": (1, True),
    }  # fmt: skip
    Log(stream).write("info", "all", **values)
    (found,) = lines(stream)
    assert (found["path"], found["nan"], found["inf"], found["number"]) == ("/a", "nan", "-inf", "1.5")
    assert (found["bytes"], found["set"], found["broken"], found["enum"]) == ("b'\\xff'", "{1}", "<Broken>", "red")
    assert (found["huge"], found["key"], found["pair"]) == (hex(1 << 70), {"3": None}, [1, True])


def test_a_list_in_itself_is_cut() -> None:
    knot: list[Any] = []
    knot.append(knot)
    stream = io.StringIO()
    Log(stream).write("info", "knot", knot=knot, number=10**5000)
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * 100_000},
        {"text": "\U0001f600" * 5000},
        {"many": list(range(100_000))},
        {"deep": {str(i): {str(j): "y" * 99 for j in range(99)} for i in range(99)}},
        {f"field{i}": "z" * 1000 for i in range(50)},
        {f"field{i}": i for i in range(5000)},
        {"k" * 100_000: 1},
    ],
)
def test_long_values_are_cut_and_the_line_stays_json(fields: dict[str, Any]) -> None:
    stream = io.StringIO()
    Log(stream).write("info", "long" * 1000, **fields)
    assert len(stream.getvalue()) <= MOST_BYTES and len(lines(stream)) == 1
    assert lines(stream)[0]["event"].startswith("long")


def test_a_cut_text_says_how_much_is_missing() -> None:
    stream = io.StringIO()
    Log(stream).write("info", "long", text="x" * 100_000)
    assert lines(stream)[0]["text"].endswith("x... 98000 more")


def test_levels_below_the_chosen_one_are_not_written() -> None:
    stream = io.StringIO()
    log = Log(stream, "warning")
    for level in LEVELS:
        log.write(level, level)
    log.configure("debug")
    log.write("debug", "later")
    assert [line["event"] for line in lines(stream)] == ["warning", "error", "later"]


def test_a_level_that_is_none_is_refused_and_changes_nothing() -> None:
    log = Log(io.StringIO(), "error")
    with pytest.raises(InvalidError, match="debug, info, warning, error"):
        log.configure("loud", access=True)
    with pytest.raises(InvalidError):
        Log(io.StringIO(), "INFO")
    assert (log.level, log.access) == ("error", False)


def test_requests_are_logged_when_they_fail_or_when_asked_for() -> None:
    stream = io.StringIO()
    log = Log(stream)
    for status in (200, 404, 500):
        log.request("a", "GET /", "m", "1", status, 1.23456, 10, 20, "127.0.0.1", "" if status == 200 else "no")
    log.configure("info", access=True)
    log.request("b", "GET /", "m", "1", 200, 1.0, 10, 20, "127.0.0.1")
    log.configure("warning")
    log.request("c", "GET /", "m", "1", 200, 1.0, 10, 20, "127.0.0.1")
    found = lines(stream)
    assert [(line["status"], line["level"]) for line in found] == [(404, "warning"), (500, "error"), (200, "info")]
    assert found[0]["ms"] == 1.235 and found[0]["error"] == "no" and "error" not in found[2]
    assert log.access


def test_a_closed_pipe_harms_nobody() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        log = Log(stream)
        os.close(reader)
        log.write("info", "into nowhere")
        log.write("info", "into nowhere")
        assert log.lost == 2
        log.close()
        log.write("info", "closed")
        assert log.lost == 3


def test_a_full_pipe_does_not_stop_who_must_not_wait() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        log = Log(stream)
        for _ in range(1000):
            log.write("info", "more", text="x" * 500)
        assert 0 < log.lost < 1000
        log.close()
    os.close(reader)


def test_a_full_disk_harms_nobody_and_the_next_line_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", _FULL_DISK, str(path)], check=True)
    found = path.read_text(encoding="utf-8").splitlines()
    assert path.stat().st_size > 1000 and json.loads(found[-1])["event"] == "again"
    assert [json.loads(line)["event"] for line in found[:2]] == ["fills", "fills"]
    with open("/dev/full", "w", encoding="utf-8") as stream:
        log = Log(stream)
        log.write("error", "lost")
        assert log.lost == 1
        log.close()


def test_a_closed_stream_is_never_taken_for_who_has_its_number_next(tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("a", encoding="utf-8")
    log, number = Log(stream), stream.fileno()
    stream.close()
    with (tmp_path / "other").open("w", encoding="utf-8") as other:
        assert other.fileno() == number
        log.write("info", "still")
    log.close()
    assert not (tmp_path / "other").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "log").read_text(encoding="utf-8"))["event"] == "still"


def test_a_stream_without_a_file_that_is_closed_harms_nobody() -> None:
    stream = io.StringIO()
    log = Log(stream)
    stream.close()
    log.write("info", "lost")
    log.close()
    assert log.lost == 1


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import sys\nfrom tilth.serve.logs import Log\n"
        "with open(sys.argv[1], 'a', encoding='utf-8') as stream:\n"
        "    log = Log(stream)\n"
        "    for n in range(300): log.write('info', sys.argv[2], text=sys.argv[2] * 1500)\n"
        "    log.close()\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [child.wait() for child in children] == [0, 0]
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(found) == 600 and all(line["text"] == line["event"] * 1500 for line in found)


@pytest.mark.parametrize("given_id", ["a", "A.b_c:d-9", "x" * 128, "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"])
def test_a_clients_id_is_kept(given_id: str) -> None:
    assert request_id(given_id) == given_id


@pytest.mark.parametrize("bad", [None, "", "x" * 129, "a b", "a\n", "\na", "é", "a/b", "a\0", "٣", '"', "{}"])
def test_an_id_that_could_harm_is_replaced(bad: str | None) -> None:
    made = request_id(bad)
    assert made != bad and request_id(made) == made


def test_forked_workers_do_not_share_ids() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKS], check=True, capture_output=True, text=True)
    found = done.stdout.split()
    assert len(set(found)) == 4 and len({made.split("-")[0] for made in found[:3]}) == 3


def test_stderr_of_a_worker_whose_reader_is_gone_does_not_change_how_it_ends() -> None:
    code = "import sys\nfrom tilth.serve.logs import Log\nsys.stdin.read()\nLog(sys.stderr).write('info', 'x')\n"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stderr is not None
        child.stderr.close()
        child.stdin.close()
    assert child.returncode == 0 and child.returncode != -signal.SIGPIPE
