"""A disk that is full or fails under a real `tilth up`: no lie, no crash, and no restart when it is well again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from plane import Sample, Up, sample, until

from tilth.core.digest import digest

pytestmark = pytest.mark.timeout(180)
_BASE = "/v1/projects/default"
_DISK_BYTES = 128 << 20


# -- a small disk


class Disk:
    """A file system in memory that can be filled to its last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "somebody-else"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    def give(self, size_bytes: int) -> None:
        """Free so many bytes."""
        os.truncate(self._filler, self._filler.stat().st_size - size_bytes)

    def free(self) -> None:
        """Give all of it back."""
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 128 MiB, for a home alone."""
    folder = tmp_path / "home"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=0700", "tilth-test", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.decode()[:100].strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _refused(found: httpx.Response) -> dict[str, Any]:
    """Return the problem that an answer tells of, which is one of the disk and no defect."""
    assert found.status_code in (503, 507), f"{found.status_code} {found.text}"
    assert found.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = found.json()
    assert told["what"] and told["why"] and told["hint"], told
    assert "Traceback" not in found.text
    return told


def _put(up: Up, data: bytes) -> httpx.Response:
    return up.ask("PUT", f"{_BASE}/blobs/{digest(data)}", content=data)


def _parcel(up: Up, found: Sample) -> httpx.Response:
    body = b"".join(f"{name} {len(data)}\n".encode() + data for name, data in found.blobs.items())
    return up.ask("PUT", f"{_BASE}/blobs", content=body)


def test_a_full_disk_refuses_writes_serves_reads_and_is_forgotten_when_there_is_room(disk: Disk) -> None:
    small, other = b"a blob" * 100, sample(3.0)
    with Up(disk.folder) as up:
        up.made("POST", f"{_BASE}/models", {"name": "m"})
        up.push("default", "m", sample())
        up.upload("default", other)
        upload = up.made("POST", f"{_BASE}/uploads", {"digest": digest(small), "size_bytes": len(small)})
        where, headers = f"{_BASE}/uploads/{upload['id']}", {"Upload-Offset": "0"}
        disk.fill()
        _refused(_put(up, b"another"))
        _refused(_parcel(up, sample(5.0)))
        _refused(up.ask("POST", f"{_BASE}/uploads", {"digest": digest(b"x"), "size_bytes": 1}))
        _refused(up.ask("PATCH", where, content=small, headers=headers))
        _refused(up.ask("POST", f"{_BASE}/models/m/versions", {"digest": other.digest}))
        until(lambda: up.ask("POST", f"{_BASE}/models", {"name": f"n{os.urandom(4).hex()}"}).status_code == 503)
        _refused(up.ask("POST", f"{_BASE}/models", {"name": "kept"}))
        # Reads go on.
        assert up.get(f"{_BASE}/models/m/versions/1")["digest"] == sample().digest
        assert up.ask("GET", f"{_BASE}/blobs/{sample().digest}").content == sample().manifest
        assert up.ask("GET", "/v1/events").status_code == 200
        missing = up.ask("GET", f"{_BASE}/models/kept")
        assert missing.status_code == 404, "what was refused is there"
        disk.free()
        # No restart in between.
        up.made("POST", f"{_BASE}/models", {"name": "kept"})
        up.made("POST", f"{_BASE}/models/m/versions", {"digest": other.digest})
        offset = up.get(where)["offset"]
        up.made("PATCH", where, content=small[offset:], headers={"Upload-Offset": str(offset)})
        assert up.ask("GET", f"{_BASE}/blobs/{digest(small)}").content == small
        assert up.get("/v1/events/check")["events"] > 0
        assert "Traceback" not in up.log(), up.log()[-3000:]


def test_a_deployment_waits_for_room_and_comes_by_itself(disk: Disk) -> None:
    with Up(disk.folder) as up:
        up.made("POST", f"{_BASE}/models", {"name": "m"})
        up.push("default", "m", sample())
        up.made("POST", f"{_BASE}/endpoints", {"name": "e", "model": "m"})
        disk.fill()

        def deployed() -> bool:
            # Page by page, so that there is room for a row and for nothing of a bundle and a server.
            disk.give(4096)
            return up.ask("POST", f"{_BASE}/endpoints/e/deploy", {"version": "1"}).status_code in (200, 201)

        until(deployed)
        disk.fill()
        until(lambda: "No space" in up.log() or "full" in up.log(), up.log, 10)
        disk.free()

        def ready() -> Any:
            return (up.get(f"{_BASE}/endpoints/e")["standing"] or {}).get("state") == "ready"

        until(ready, lambda: up.get(f"{_BASE}/endpoints/e"))
        assert "Traceback" not in up.log(), up.log()[-3000:]


# -- a disk that fails


class Failing:
    """strace on a running process: calls that touch `path` fail with an error of the kernel until the end."""

    def __init__(self, up: Up, calls: str, error: str, path: Path) -> None:
        self._up = up
        log = up.folder.with_name("strace.log")
        command = ["strace", "-f", "-qq", "-o", str(log), "-p", str(up.pid), "-P", str(path)]
        self._command = [*command, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
        self.log = log

    def __enter__(self) -> "Failing":
        self._tracer = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until(lambda: self._tracer.poll() is not None or self._all_traced())
        if self._tracer.poll() is not None:
            told = self._tracer.communicate()[0]
            pytest.skip(f"strace may not trace here: {told.decode()[:100].strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._tracer.send_signal(signal.SIGINT)
        self._tracer.communicate(timeout=20)

    def _all_traced(self) -> bool:
        tasks = Path(f"/proc/{self._up.pid}/task").glob("*/status")
        return all(f"TracerPid:\t{self._tracer.pid}\n" in one.read_text(encoding="ascii") for one in tasks)

    def count(self) -> int:
        """Return how many calls failed."""
        return self.log.read_text(encoding="utf-8", errors="replace").count("(INJECTED)")


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
_SYNC = "fsync,fdatasync"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A control plane with a model."""
    with Up(tmp_path_factory.mktemp("faults") / "home") as made:
        made.made("POST", f"{_BASE}/models", {"name": "m"})
        made.push("default", "m", sample())
        yield made


@needs_strace
@pytest.mark.parametrize(("calls", "error"), [(_SYNC, "EIO"), ("pwrite64", "ENOSPC"), ("pwrite64", "EIO")])
def test_a_row_that_the_disk_did_not_keep_is_never_acknowledged(up: Up, calls: str, error: str) -> None:
    name = f"{calls[:2]}-{error.lower()}"
    with Failing(up, calls, error, up.folder / "store.db-wal") as failing:
        refused = [up.ask("POST", f"{_BASE}/models", {"name": f"{name}-{number}"}) for number in range(3)]
        assert failing.count() > 0
        for one in refused:
            _refused(one)
        assert up.get(f"{_BASE}/models/m")["name"] == "m", "reads do not go on"
    # The same name is free: nothing of what was refused came back, and no restart was needed.
    for number in range(3):
        up.made("POST", f"{_BASE}/models", {"name": f"{name}-{number}"})
    assert up.get("/v1/events/check")["events"] > 0


@needs_strace
@pytest.mark.parametrize(("calls", "error"), [("write,writev", "ENOSPC"), ("write,writev", "EIO"), (_SYNC, "EIO")])
def test_bytes_that_the_disk_did_not_keep_are_sent_again_and_never_acknowledged(up: Up, calls: str, error: str) -> None:
    data = f"{calls} {error}".encode() * 1000
    upload = up.made("POST", f"{_BASE}/uploads", {"digest": digest(data), "size_bytes": len(data)})
    where = f"{_BASE}/uploads/{upload['id']}"

    def send(offset: int) -> httpx.Response:
        return up.ask("PATCH", where, content=data[offset:], headers={"Upload-Offset": str(offset)})

    with Failing(up, calls, error, up.folder / "uploads" / upload["id"]) as failing:
        _refused(send(0))
        assert failing.count() > 0
        # After a sync that failed the same bytes sync without an error, and are not on the disk.
        assert up.get(where)["offset"] == 0
        _refused(send(0))
        assert up.ask("GET", f"{_BASE}/blobs/{digest(data)}").status_code == 404
    assert send(0).json()["done"]
    assert up.ask("GET", f"{_BASE}/blobs/{digest(data)}").content == data


@needs_strace
def test_a_name_that_the_disk_did_not_keep_is_written_again_not_synced_again(up: Up) -> None:
    data = b"its name" * 100
    name = digest(data)
    folder = up.folder / "blobs" / name[:2]
    folder.mkdir(exist_ok=True)
    with Failing(up, _SYNC, "EIO", folder) as failing:
        _refused(_put(up, data))
        assert failing.count() > 0
        assert up.ask("GET", f"{_BASE}/blobs/{name}").status_code == 404
    before = (folder / name).stat().st_ino
    assert _put(up, data).status_code == 200
    assert (folder / name).stat().st_ino != before, "the name of the first try was trusted"
    assert up.ask("GET", f"{_BASE}/blobs/{name}").content == data


@needs_strace
def test_a_folder_whose_name_was_not_kept_is_synced_before_a_blob_in_it_counts(up: Up) -> None:
    blobs = up.folder / "blobs"
    tries = (b"its folder %d" % number for number in range(9999))
    data = next(one for one in tries if not (blobs / digest(one)[:2]).exists())
    name = digest(data)
    # What a process leaves that is cut off between making the folder and syncing the one above.
    (blobs / name[:2]).mkdir()
    with Failing(up, _SYNC, "EIO", blobs) as failing:
        _refused(_put(up, data))
        assert failing.count() > 0, "nobody asked whether the folder's name is on the disk"
    assert _put(up, data).status_code == 200


def test_a_start_on_a_full_disk_says_why_and_the_next_one_has_lost_nothing(disk: Disk) -> None:
    with Up(disk.folder) as up:
        secret = up.secret
        up.made("POST", f"{_BASE}/models", {"name": "m"})
    disk.fill()
    log = disk.folder.with_name(f"{disk.folder.name}.log")
    before = log.stat().st_size
    with contextlib.suppress(RuntimeError), Up(disk.folder, secret=secret) as up:
        # Where the store's own files have room enough, it comes up and reads.
        assert up.get(f"{_BASE}/models/m")["name"] == "m"
    told = log.read_text(encoding="utf-8")[before:]
    assert "Traceback" not in told, told[-3000:]
    disk.free()
    with Up(disk.folder, secret=secret) as up:
        assert up.get(f"{_BASE}/models/m")["name"] == "m"
        up.made("POST", f"{_BASE}/models", {"name": "n"})


def test_a_first_start_on_a_full_disk_begins_anew_when_there_is_room(disk: Disk) -> None:
    disk.fill()
    command = [sys.executable, "-m", "tilth", "up", "--home", str(disk.folder), "--port", "0", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr, ended.stderr[-3000:]
    told = json.loads(ended.stdout)
    assert told["what"] and told["why"] and told["hint"], told
    disk.free()
    with Up(disk.folder) as up:
        assert up.secret, "the administrator's token was lost with the first start"
        up.made("POST", f"{_BASE}/models", {"name": "m"})
