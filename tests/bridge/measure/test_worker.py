"""Workers: whatever a child does, the parent learns why, and nothing of the child stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_engine import COMMAND

from tilth.bridge.measure.worker import Worker, WorkerFailed, last_words, memory_bytes, start
from tilth.core.errors import UnavailableError

_BEFORE = """
import json, os, signal, sys, time
reading, writing = int(sys.argv[1]), int(sys.argv[2])
asked = os.fdopen(reading)
def answer(data): os.write(writing, data)
"""
_READ = "line = asked.readline()\n"
MIB = 1 << 20


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaves descriptors, threads' children or zombies behind."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


pytestmark = pytest.mark.usefixtures("leftovers")


def worker(tmp_path: Path, script: str, memory: int = 1 << 30) -> Worker:
    command = [sys.executable, "-I", "-S", "-c", _BEFORE + script]
    return start(command, tmp_path / "log", memory)


def failure(tmp_path: Path, script: str, *, timeout_s: float = 20.0, memory: int = 1 << 30) -> WorkerFailed:
    made = worker(tmp_path, _READ + script, memory)
    try:
        with pytest.raises(WorkerFailed) as caught:
            made.call("load", timeout_s, model="m")
    finally:
        made.close()
    assert not is_running(made.pid)
    return caught.value


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(pid)


def test_a_call_is_answered_and_another_and_one_in_pieces(tmp_path: Path) -> None:
    made = worker(
        tmp_path,
        "for line in asked:\n"
        "    request = json.loads(line)\n"
        '    data = json.dumps({"ok": request}).encode() + b"\\n"\n'
        "    for i in range(0, len(data), 1000): answer(data[i : i + 1000])\n",
    )
    try:
        assert made.call("load", 20, model="é") == {"do": "load", "model": "é"}
        long = "x" * (3 * MIB)
        assert made.call("run", 20, text=long)["text"] == long
        assert made.call("time", 20) == {"do": "time"}
        assert memory_bytes(made.pid) > MIB
    finally:
        made.close()
        made.close()


def test_a_thread_that_spins_after_an_answer_takes_no_core_until_the_next_call(tmp_path: Path) -> None:
    made = worker(
        tmp_path,
        "import threading\n"
        "def spin():\n    while True: pass\n"
        "threading.Thread(target=spin, daemon=True).start()\n"
        "for line in asked: answer(b'{\"ok\": %.3f}\\n' % time.process_time())\n",
    )
    try:
        before = made.call("time", 20)
        time.sleep(0.5)
        assert made.call("time", 20) - before < 0.2
        os.kill(made.pid, 0)
    finally:
        made.close()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("os.abort()", "its process was ended by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by SIGSEGV"),
        ("os.kill(os.getpid(), 40)", "its process was ended by signal 40"),
        ("os._exit(3)", "its process ended with exit code 3"),
        ("pass", "its process ended with exit code 0"),
        ("answer(b'{\"ok\": ')", "its process ended with exit code 0"),
        ("os.close(writing); time.sleep(60)", "it closed its pipe and went on running"),
        ("print('x' * 100); 1 / 0", "its process ended with exit code 1"),
    ],
)
def test_how_a_child_ended_is_told(tmp_path: Path, script: str, reason: str) -> None:
    found = failure(tmp_path, "print('about to end', flush=True)\n" + script)
    assert found.reason == reason and str(found) == reason
    assert "about to end" in found.last_words and found.error is None


def test_a_child_that_hangs_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    began = time.monotonic()
    found = failure(tmp_path, "print('still thinking', flush=True)\ntime.sleep(60)", timeout_s=0.5)
    assert found.reason == "`load` took longer than 0.5 s" and found.last_words == "still thinking"
    assert time.monotonic() - began < 10


def test_a_child_that_never_reads_does_not_hang_its_parent(tmp_path: Path) -> None:
    made = worker(tmp_path, "time.sleep(60)")
    try:
        with pytest.raises(WorkerFailed, match="took longer than 0.5 s"):
            made.call("load", 0.5, text="x" * MIB)
    finally:
        made.close()


def test_a_child_that_takes_too_much_memory_is_ended_with_the_figures(tmp_path: Path) -> None:
    leak = "held = []\nwhile True: held.append(bytearray(b'x') * (1 << 20)); time.sleep(0.0005)"
    found = failure(tmp_path, leak, memory=100 * MIB)
    assert found.reason.startswith("used ") and found.reason.endswith("over its limit of 100 MiB")


def test_a_child_that_floods_its_output_does_not_fill_the_disk(tmp_path: Path) -> None:
    found = failure(tmp_path, "while True: os.write(1, b'spam ' * 20000)")
    assert found.reason == "printed more than 64 MiB" and len(found.last_words) <= 4096
    assert (tmp_path / "log").stat().st_size < 2 << 30


def test_control_characters_in_last_words_steer_no_terminal(tmp_path: Path) -> None:
    dirty = "\\x1b[31mred\\x1b[0m\\x07 \\x1b]0;title\\x07 \\u009b2J back\\rspace\\x08\\nline two"
    found = failure(tmp_path, f"os.write(1, '{dirty}'.encode() + b' \\xff\\xfe')\nos._exit(1)")
    assert not any(ord(c) < 32 and c not in "\t\n" or 127 <= ord(c) < 160 for c in found.last_words)
    assert "red" in found.last_words and found.last_words.splitlines()[-1].startswith("line two")


@pytest.mark.parametrize(
    "line",
    [
        "b'hello'",
        "b''",
        "b'[1]'",
        "b'{}'",
        "b'null'",
        "b'\\xff\\xfe'",
        "b'[' * 200000",
        "b'{\"error\": 3}'",
        'b\'{"error": {"what": "x"}}\'',
        'b\'{"error": {"what": 1, "why": "", "hint": ""}}\'',
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_the_child(tmp_path: Path, line: str) -> None:
    script = f"data = {line} + b'\\n'\nwhile data: data = data[os.write(writing, data) :]\ntime.sleep(60)"
    assert failure(tmp_path, script).reason == "answered something that is not an answer"


def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    assert failure(tmp_path, "while True: answer(b'x' * 65536)").reason == "answered more than 16 MiB"


def test_an_error_that_the_child_answers_leaves_it_usable(tmp_path: Path) -> None:
    error = '{"error": "InvalidError", "what": "no", "why": "because", "hint": "try"}'
    made = worker(tmp_path, f"for line in asked: answer(b'{{\"error\": {error}}}\\n')")
    try:
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="no: because") as caught:
                made.call("load", 20)
            assert caught.value.error is not None and caught.value.error["hint"] == "try"
    finally:
        made.close()


def test_what_a_child_started_ends_with_it_and_does_not_hide_its_end(tmp_path: Path) -> None:
    fork = "pid = os.fork()\nif pid: print(pid, flush=True); os._exit(7)\nelse: time.sleep(60)"
    began = time.monotonic()
    found = failure(tmp_path, fork)
    assert found.reason == "its process ended with exit code 7"
    assert time.monotonic() - began < 10, "although the grandchild holds the pipe open"
    assert gone(int(found.last_words))


def test_closing_ends_a_busy_child_and_what_it_started(tmp_path: Path) -> None:
    made = worker(tmp_path, "pid = os.fork()\nif pid: answer(b'{\"ok\": %d}\\n' % pid)\nwhile True: pass")
    grandchild = made.call("load", 20)
    made.close()
    assert gone(grandchild) and not is_running(made.pid)


def test_an_interrupt_from_the_keyboard_reaches_the_parent_alone(tmp_path: Path) -> None:
    made = worker(tmp_path, _READ + "answer(b'{\"ok\": %d}\\n' % os.getpgrp())\ntime.sleep(60)")
    try:
        assert made.call("load", 20) == made.pid != os.getpgrp()
    finally:
        made.close()


@pytest.mark.parametrize("command", [["/nowhere/python"], ["/dev/null"]])
def test_a_child_that_cannot_start_leaves_no_descriptors(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(UnavailableError, match="cannot start a process"):
        start(command, tmp_path / "log", 1 << 30)


def test_a_log_that_cannot_be_written_leaves_no_descriptors(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot start a process"):
        start([sys.executable, "-c", "pass"], tmp_path / "nowhere" / "log", 1 << 30)
    assert last_words(tmp_path / "nowhere") == ""


_PARENT = """
import sys, time
from pathlib import Path
from tilth.bridge.measure.worker import start
made = start(sys.argv[2:], Path(sys.argv[1]), 1 << 30)
print(made.pid, flush=True)
made.call("load", 60, text="hang")
"""
_TIED = """
import os, sys, time
from tilth.bridge.measure.tether import tie_to_parent
tie_to_parent()
print("tied", flush=True)
time.sleep(60)
"""


def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    run = [sys.executable, "-c", _PARENT, str(tmp_path / "log"), sys.executable, "-c", _TIED]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        end = time.monotonic() + 20
        while last_words(tmp_path / "log") != "tied" and time.monotonic() < end:
            time.sleep(0.02)
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    assert gone(child)


def test_children_work_where_their_parent_is_the_first_process(tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a process namespace")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom tilth.bridge.measure.worker import start\n"
        "assert os.getpid() == 1\n"
        f"made = start([sys.executable, {COMMAND[1]!r}], Path(sys.argv[1]), 1 << 30)\n"
        "print(made.call('memory', 30)['peak_bytes'] > 0)\nmade.close()"
    )
    run = [*inside, sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
