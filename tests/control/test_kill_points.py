"""kill -9 at system calls of a control plane: nothing that was acknowledged is lost, and it goes on without help."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kill_points
import pytest
from kill_points import Point, some
from plane import PATIENCE_S, Up, local

#: In how many tests the points are tried, so that several processes share them.
PARTS = 12
POINTS = int(os.environ.get("TILTH_KILL_POINTS", "216"))
#: What a person would wait; the process itself takes half a second.
AGAIN_S = 5.0
UP_POINTS = [Point("fsync", 2), Point("fdatasync", 3), Point("rename", 1), Point("pwrite64", 120), Point("unlink", 2)]


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    with tempfile.TemporaryDirectory() as folder:
        watch = ["strace", "-qq", "-e", "inject=getppid:signal=KILL", sys.executable, "-c", "import os; os.getppid()"]
        done = subprocess.run(watch, capture_output=True, cwd=folder)
    if b"ptrace" in done.stderr.lower() or b"not permitted" in done.stderr:
        pytest.skip("processes cannot be traced here")


@pytest.fixture(scope="module")
def points() -> list[Point]:
    """Every point of a run."""
    command = [sys.executable, kill_points.__file__, "points"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = [Point(*one) for one in json.loads(done.stdout)]
    assert {one.call for one in found} >= {"pwrite64", "fsync", "fdatasync", "rename", "unlink"} and len(found) > 200
    return found


def tried(points: list[Point]) -> Iterator[dict[str, Any]]:
    """Kill a run at each point, and yield what came of it."""
    asked = "".join(f"{point.call} {point.number}\n" for point in points)
    command = [sys.executable, kill_points.__file__]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60 + 20 * len(points))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(points), done.stderr[-2000:]
    yield from map(json.loads, lines)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_that_was_acknowledged_is_lost_by_kill_9(part: int, points: list[Point]) -> None:
    rounds = POINTS // len(points) + 1
    chosen = some(points * rounds, POINTS)[part::PARTS]
    failed = []
    for told in tried(chosen):
        if "failed" in told:
            failed.append(told)
        else:
            assert told["result"][1] < AGAIN_S, told
    assert not failed, failed[:3]


@pytest.mark.parametrize("point", UP_POINTS, ids=lambda point: f"{point.call}-{point.number}")
def test_tilth_up_itself_starts_again_after_kill_9(point: Point, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "tilth", "up", "--home", str(home), "--port", "0", "--json"]
    command += ["--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"]
    inject = ["-e", f"trace={point.call}", "-e", f"inject={point.call}:signal=KILL:when={point.number}"]
    watch = ["strace", "-f", "-qq", "-o", os.devnull, *inject]
    with subprocess.Popen(
        [*watch, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if line:
                # The point lies behind the start: changes are made until it is reached.
                _change_until_it_ends(json.loads(line))
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    with Up(home, "--new-token") as up:
        assert up.get("/v1/events/check")["sound"]
        assert up.ask("GET", "/v1/me", who=up.secret).status_code == 200
        up.made("POST", "/v1/projects/default/models", {"name": "after"})
    with local(home) as asks:
        asks.secret = asks.plane.new_admin_token("a look")
        kill_points.check_blobs(asks)


def _change_until_it_ends(told: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {told['token']}"}
    with httpx.Client(base_url=told["address"], headers=headers, trust_env=False, timeout=PATIENCE_S) as client:
        for number in range(60):
            data = str(number).encode()
            try:
                client.put(f"/v1/projects/default/blobs/{hashlib.sha256(data).hexdigest()}", content=data)
                client.post("/v1/projects/default/models", json={"name": f"m{number}"})
            except httpx.TransportError:
                return
    raise AssertionError("the point was not reached")
