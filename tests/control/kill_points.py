"""Kills a control plane at system calls of its own, one run for each, and looks at what is left.

A process that has everything imported forks a child for each point. The child opens a home and does a list of changes,
under `strace`, which kills it at the N-th call of one kind that one of its threads makes. Another child opens the home
again and compares every row and every blob with what was there, in a run that nobody killed, after as many changes as
were acknowledged, or after one more: the one that was under way. Then it does the rest.
"""

import contextlib
import hashlib
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from plane import Local, local, sample

from tilth.client.parcel import packed
from tilth.control.store.tables import META

#: What changes a file or the name of one.
CALLS = ("pwrite64", "write", "writev", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "mkdir")
_ONE, _TWO = sample(1.0), sample(2.0)
_LARGE = bytes(range(256)) * 2048
_NAME = hashlib.sha256(_LARGE).hexdigest()
_P = "/v1/projects/two"
_IDS = re.compile(r"[0-9a-f]{32}(?![0-9a-f])")
#: What no run has twice, and what is of the moment.
_VARIES = ("hash", "body", "request")
_LEFT = ("sessions", "standings", "nodes", "devices")


# -- what is done: each is one change, and can be asked for again


def _post(path: str, told: Any, number: int) -> Callable[[Local], None]:
    def change(asks: Local) -> None:
        asks.made("POST", path, told, headers={"Idempotency-Key": f"key-{number}"})

    return change


def _send(half: bool) -> Callable[[Local], None]:
    def change(asks: Local) -> None:
        found = asks.made("POST", f"{_P}/uploads", {"digest": _NAME, "size_bytes": len(_LARGE)})
        end = len(_LARGE) // 2 if half else len(_LARGE)
        # All bytes may be there and none of them verified: then an empty piece is what is missing.
        if found["done"] or (half and found["offset"] >= end):
            return
        headers = {"Upload-Offset": str(found["offset"])}
        asks.made("PATCH", f"{_P}/uploads/{found['id']}", content=_LARGE[found["offset"] : end], headers=headers)

    return change


def _gone(path: str) -> Callable[[Local], None]:
    def change(asks: Local) -> None:
        assert asks.ask("DELETE", path).status_code in (204, 404)

    return change


def _put(path: str, **more: Any) -> Callable[[Local], None]:
    return lambda asks: asks.made("PUT", path, **more)


def _patched(path: str, told: Any) -> Callable[[Local], None]:
    return lambda asks: asks.made("PATCH", path, told)


CHANGES: tuple[Callable[[Local], None], ...] = (
    _post("/v1/users", {"name": "ann"}, 1),
    _post("/v1/projects", {"name": "two", "description": "d"}, 2),
    _put(f"{_P}/members/ann", told={"role": "operator"}),
    _post("/v1/tokens", {"name": "hers", "user": "ann", "project": "two"}, 3),
    _put(f"{_P}/blobs", content=packed(_ONE.blobs)),
    _post(f"{_P}/models", {"name": "m", "tags": {"a": "b"}}, 4),
    _post(f"{_P}/models/m/versions", {"digest": _ONE.digest, "aliases": ["champion"]}, 5),
    _post(f"{_P}/uploads", {"digest": _NAME, "size_bytes": len(_LARGE)}, 6),
    _send(half=True),
    _send(half=False),
    _put(f"{_P}/blobs", content=packed(_TWO.blobs)),
    _post(f"{_P}/models/m/versions", {"digest": _TWO.digest}, 7),
    _put(f"{_P}/models/m/aliases/champion", told={"number": 2}),
    _patched(f"{_P}/models/m", {"description": "changed"}),
    _post(f"{_P}/endpoints", {"name": "line", "model": "m"}, 8),
    _post(f"{_P}/endpoints/line/deploy", {"version": "2"}, 9),
    _post(f"{_P}/endpoints/line/deploy", {"version": "1", "traffic": 10}, 10),
    _post(f"{_P}/models/m/versions/1/stage", {"stage": "production"}, 11),
    _patched("/v1/users/ann", {"disabled": True}),
    _gone(f"{_P}/endpoints/line"),
    _gone(f"{_P}/models/m/versions/1"),
)


# -- what is there


def rows(asks: Local) -> list[Any]:
    """Return every row, with ids numbered in the order in which they were made, and without times and secrets."""
    known: dict[str, str] = {}

    def plain(value: Any) -> Any:
        text = json.dumps(value, sort_keys=True, default=str)
        return _IDS.sub(lambda found: known.setdefault(found[0], f"id{len(known)}"), text)

    made = []
    with asks.database.read() as connection:
        for table in META.sorted_tables:
            if table.name in _LEFT:
                continue
            columns = [one for one in table.c if one.key not in _VARIES and not one.key.endswith("_us")]
            found = connection.execute(sa.select(*columns).order_by(*table.primary_key)).mappings()
            made.append([table.name, [plain(dict(row)) for row in found]])
    return made


def check_blobs(asks: Local) -> None:
    """Return when every blob that is noted is there, and everything that is there is what its name says."""
    with asks.database.read() as connection:
        noted = {row[0] for row in connection.execute(sa.select(META.tables["blobs"].c.digest))}
    found = {path.name: path for path in asks.home.blobs.rglob("*") if path.is_file()}
    wrong = [name for name, path in found.items() if hashlib.sha256(path.read_bytes()).hexdigest() != name]
    assert not wrong, f"half-written blobs are visible: {wrong}"
    assert noted <= set(found), f"noted and not there: {noted - set(found)}"


# -- the process that forks


@dataclass(frozen=True)
class Point:
    """The call at which a run is killed."""

    call: str
    number: int


class Zygote:
    """Forks children that have everything imported. `done` is memory that they share with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = mmap.mmap(-1, 4096)
        self.reference: list[list[Any]] = []

    def work(self, home: Path, note: Callable[[Local], None]) -> None:
        """Do every change, and note it once it is acknowledged."""
        with local(home) as asks:
            note(asks)
            for change in CHANGES:
                change(asks)
                note(asks)

    def learn(self) -> list[list[Any]]:
        """Do all of it once, unharmed, and return what is there after each change."""
        self.work(self.folder / "reference", lambda asks: self.reference.append(rows(asks)))
        return self.reference

    def killed(self, point: Point, *, count: Path | None = None) -> Path:
        """Do it until the point, and return the home that is left."""
        home = Path(tempfile.mkdtemp(dir=self.folder)) / "home"
        self.done[:8] = b"\0" * 8
        child = os.fork()
        if child == 0:
            with _end():
                os.kill(os.getpid(), signal.SIGSTOP)

                def acknowledged(_: Local) -> None:
                    self.done[0] += 1

                self.work(home, acknowledged)
        _until_stopped(child)
        inject = f"inject={point.call}:signal=KILL:when={point.number}"
        more = ["-e", inject] if count is None else []
        command = ["strace", "-f", "-qq", "-o", str(count or os.devnull), "-p", str(child)]
        command += ["-e", f"trace={point.call if count is None else ','.join(CALLS)}", *more]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as strace:
            try:
                _until_traced(child, strace)
                os.kill(child, signal.SIGCONT)
            finally:
                os.waitpid(child, 0)
                strace.wait(30)
        return home

    def looked_at(self, home: Path) -> tuple[int, float]:
        """Open a home again and return which change was the last, and how long it took; then do the rest.

        Raises:
            AssertionError: something is lost, half done, or cannot go on.
        """
        acknowledged, began = self.done[0], time.monotonic()
        with local(home) as asks:
            took_s = time.monotonic() - began
            there = rows(asks)
            after = [number for number in (acknowledged - 1, acknowledged) if self._is(there, number)]
            assert after, f"{acknowledged} were acknowledged: {_difference(there, self.reference, acknowledged)}"
            check_blobs(asks)
            asks.secret = asks.secret or asks.plane.new_admin_token("after a kill")
            assert asks.get("/v1/events/check")["sound"]
            for change in CHANGES[max(0, acknowledged - 1) :]:
                change(asks)
            check_blobs(asks)
            assert asks.get("/v1/events/check")["sound"]
            assert [one["number"] for one in asks.get(f"{_P}/models/m/versions")["items"]] == [2]
            assert asks.ask("GET", f"{_P}/blobs/{_NAME}").content == _LARGE
        return after[0], took_s

    def _is(self, there: list[Any], number: int) -> bool:
        if number < 0:
            # Not even the first start was acknowledged: whatever is there, the rest has to work.
            return True
        return number < len(self.reference) and there == self.reference[number]


def _difference(there: list[Any], reference: list[list[Any]], acknowledged: int) -> str:
    wanted = reference[min(acknowledged, len(reference)) - 1]
    told = [
        f"{name}: {[one for one in found if one not in other]} and not {[one for one in other if one not in found]}"
        for (name, found), (_, other) in zip(there, wanted, strict=True)
        if found != other
    ]
    return "; ".join(told)[:2000]


@contextlib.contextmanager
def _end() -> Iterator[None]:
    """End a forked child at the end of the block, with what it was told of in its exit code."""
    try:
        yield
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _until_stopped(child: int) -> None:
    os.waitpid(child, os.WUNTRACED)


def _until_traced(child: int, strace: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        status = Path(f"/proc/{child}/status").read_text(encoding="ascii", errors="replace")
        if "TracerPid:\t0\n" not in status:
            return
        if strace.poll() is not None:
            raise RuntimeError(f"strace cannot watch: {(strace.stderr.read() if strace.stderr else b'')!r}")
        time.sleep(0.002)
    raise RuntimeError("strace does not come")


def points(folder: Path) -> list[Point]:
    """Return every point of an unharmed run: for each kind of call, as many as its busiest thread makes."""
    zygote = Zygote(folder)
    zygote.killed(Point("", 0), count=folder / "calls")
    made: dict[tuple[str, str], int] = {}
    for line in (folder / "calls").read_text(encoding="utf-8", errors="replace").splitlines():
        if found := re.match(r"(\d+)\s+(\w+)\(", line):
            made[found[1], found[2]] = made.get((found[1], found[2]), 0) + 1
    most: dict[str, int] = {}
    for (_, call), count in made.items():
        most[call] = max(most.get(call, 0), count)
    return [Point(call, number) for call in CALLS for number in range(1, most.get(call, 0) + 1)]


def some(found: list[Point], count: int) -> list[Point]:
    """Return so many points, spread evenly."""
    return [found[number * len(found) // count] for number in range(min(count, len(found)))]


def main() -> None:
    """Answer each line `CALL NUMBER` with a line of JSON: what came of that point."""
    with tempfile.TemporaryDirectory(prefix="tilth-kill-") as name:
        folder = Path(name)
        if sys.argv[1:] == ["points"]:
            child = os.fork()
            if child == 0:
                with _end():
                    (folder / "points").write_text(json.dumps([[p.call, p.number] for p in points(folder)]))
            os.waitpid(child, 0)
            print((folder / "points").read_text())
            return
        zygote = Zygote(folder)
        (folder / "result").touch()
        zygote.reference = _in_child(folder, zygote.learn)["result"]
        for line in sys.stdin:
            call, _, number = line.strip().partition(" ")
            home = zygote.killed(Point(call, int(number)))
            told = {"call": call, "number": int(number), "acknowledged": zygote.done[0]}
            told |= _in_child(folder, lambda home=home: zygote.looked_at(home))  # type: ignore[misc]
            print(json.dumps(told), flush=True)
            shutil.rmtree(home.parent)


def _in_child(folder: Path, work: Callable[[], Any]) -> dict[str, Any]:
    """Do something in a process of its own, and return what it returned or why it failed."""
    child = os.fork()
    if child == 0:
        try:
            told = {"result": work()}
        except BaseException as error:
            where = " < ".join(
                f"{one.name}:{one.lineno}" for one in reversed(traceback.extract_tb(error.__traceback__))
            )
            told = {"failed": f"{type(error).__name__}: {error} at {where}"}
        with contextlib.suppress(TypeError):
            (folder / "result").write_text(json.dumps(told, default=str))
        os._exit(0)
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads((folder / "result").read_text())
    return found


if __name__ == "__main__":
    main()
