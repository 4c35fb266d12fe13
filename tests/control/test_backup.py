"""Backups of a real control plane: what was there comes back, and nothing that was damaged or changed does."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from conftest import new_address
from plane import PATIENCE_S, ROW, Up, expected, sample, until, written

from tilth import wiring
from tilth.cli.main import main
from tilth.client.client import Client
from tilth.control.backup.form import LEFT_OUT
from tilth.control.backup.restore import check
from tilth.control.backup.take import take
from tilth.control.store.database import parsed
from tilth.control.store.tables import META
from tilth.core.errors import TilthError


def rows(address: str) -> dict[str, list[Any]]:
    """Return every row of a store that a backup holds."""
    engine = sa.create_engine(parsed(address))
    with engine.connect() as connection:
        found = {
            table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
            for table in META.sorted_tables
            if table.name not in LEFT_OUT
        }
    engine.dispose()
    return found


def tilth(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tilth", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def done(*arguments: object) -> str:
    """Run a command in this process and return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(one) for one in arguments]) == 0, printed.getvalue()
    return printed.getvalue()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with users, models, an endpoint and what they have to do with each other; nobody has it open."""
    folder = tmp_path_factory.mktemp("full")
    with Up(folder / "home") as up, Client(up.address, up.secret) as client:
        for scale in (1.0, 2.0):
            client.push(written(sample(scale), folder / f"{scale:g}.tilth"), "m", aliases=["champion"])
        client.users.make("ann")
        client.members.put("ann", "operator")
        client.models.change("m", tags={"team": "\u00e4\u2028\U0001f600"})
        client.endpoints.make("line", "m")
        client.endpoints.deploy("line", "champion", traffic=10)
        client.versions.stage("m", "1", "production")
        (folder / "token").write_text(client.tokens.make("hers", user="ann").secret)
    return folder / "home"


@pytest.fixture(scope="module")
def kept(full: Path) -> Path:
    """A whole backup of it."""
    done("backup", full.parent / "backup", "--home", full)
    return full.parent / "backup"


@pytest.fixture
def backup(kept: Path, tmp_path: Path) -> Path:
    """A copy of that backup, to be damaged."""
    return shutil.copytree(kept, tmp_path / "backup", ignore=shutil.ignore_patterns("lock"))


def test_what_was_there_comes_back_and_works(full: Path, kept: Path, tmp_path: Path) -> None:
    assert "sound" in done("restore", kept, "--check")
    home = tmp_path / "home"
    assert "restored" in done("restore", kept, "--home", home)
    assert rows(f"sqlite:///{home}/store.db") == rows(f"sqlite:///{full}/store.db")
    token = (full.parent / "token").read_text()
    with Up(home, secret=token) as up, Client(up.address, token) as client:
        assert client.me().user == "ann"
        pulled = client.pull("m:champion", tmp_path / "back.tilth")
        assert pulled.path.read_bytes() == (full.parent / "2.tilth").read_bytes()
        assert not client.models.get("m").tags["team"].isascii()
        until(lambda: (seen := client.endpoints.get("line").standing) is not None and seen.state == "ready")
        address = f"{client.me().serving}/v1/models/default.line:predict"
        answer = httpx.post(
            address, json={"rows": [ROW]}, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )
        assert answer.status_code == 200 and str(round(expected(2.0)[0], 3))[:4] in answer.text
        client.models.make("another")
    with Up(home, "--new-token") as up, Client(up.address, up.secret) as client:
        assert client.events.check().sound


def test_a_restore_from_sqlite_to_postgresql_and_back_keeps_every_row(
    full: Path, kept: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    middle = new_address("postgresql", request, tmp_path)
    done("restore", kept, "--home", tmp_path / "pg", "--store", middle)
    before = rows(f"sqlite:///{full}/store.db")
    assert rows(middle) == before
    done("backup", tmp_path / "again", "--home", tmp_path / "pg", "--store", middle)
    done("restore", tmp_path / "again", "--home", tmp_path / "lite")
    assert rows(f"sqlite:///{tmp_path}/lite/store.db") == before
    assert tilth("restore", kept, "--home", tmp_path / "pg", "--store", middle).returncode == 6


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_backup_that_is_taken_while_others_write_is_whole(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = [] if kind == "sqlite" else ["--store", new_address(kind, request, tmp_path)]
    paths = [written(sample(float(number)), tmp_path / f"{number}.tilth") for number in range(1, 5)]
    stop = threading.Event()

    def write(number: int, client: Client) -> None:
        name = f"m{number}"
        while not stop.is_set():
            client.push(paths[number], name)
            client.models.change(name, description=str(time.monotonic()))
            client.versions.remove(name, str(client.versions.get(name).number))

    with Up(tmp_path / "home", *store) as up, Client(up.address, up.secret) as client:
        threads = [threading.Thread(target=write, args=(number, client)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            counts = []
            for number in range(3):
                folder = tmp_path / f"backup-{number % 2}"
                done("backup", folder, "--home", tmp_path / "home", *store)
                counts.append(json.loads(done("restore", folder, "--check", "--json"))["rows"])
                seen = up.events()
                until(lambda seen=seen: up.events() > seen)  # type: ignore[misc]
                done("restore", folder, "--home", tmp_path / f"restored-{number}")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert counts == sorted(counts) and counts[0] < counts[-1]
    with Up(tmp_path / "restored-2", "--new-token") as up, Client(up.address, up.secret) as client:
        assert client.events.check().sound


def test_a_second_backup_copies_only_what_is_new_and_drops_what_nobody_needs(full: Path, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "backup"
    shutil.copytree(full, home)
    done("backup", folder, "--home", home)
    times = {path: path.stat().st_mtime_ns for path in (folder / "blobs").rglob("*") if path.is_file()}
    stranger = hashlib.sha256(b"old").hexdigest()
    (folder / "blobs" / stranger[:2]).mkdir(exist_ok=True)
    (folder / "blobs" / stranger[:2] / stranger).write_bytes(b"old")
    with Up(home, "--new-token") as up, Client(up.address, up.secret) as client:
        client.push(written(sample(9.0), tmp_path / "m.tilth"), "m")
        done("backup", folder, "--home", home)
    now = {path: path.stat().st_mtime_ns for path in (folder / "blobs").rglob("*") if path.is_file()}
    assert times.items() <= now.items() and len(now) > len(times)
    assert not (folder / "blobs" / stranger[:2] / stranger).exists()
    assert len(list(folder.glob("rows-*"))) == 1
    assert "sound" in done("restore", folder, "--check")


# -- a backup that is not what was written


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at if at >= 0 else len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def table(backup: Path, name: str) -> Path:
    (folder,) = backup.glob("rows-*")
    return folder / f"{name}.jsonl"


def blob(backup: Path) -> Path:
    return next(path for path in (backup / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 4)


def resealed(backup: Path, name: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a table, and make `backup.json` fit, as somebody who wants to deceive would."""
    path = table(backup, name)
    data = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(data)
    told = json.loads((backup / "backup.json").read_bytes())
    told["tables"][name] |= {
        "digest": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "rows": data.count(b"\n"),
    }
    (backup / "backup.json").write_text(json.dumps(told))


def altered(change: Callable[[dict[str, Any]], object]) -> Callable[[list[bytes]], list[bytes]]:
    def changed(lines: list[bytes]) -> list[bytes]:
        row = json.loads(lines[0])
        change(row)
        return [json.dumps(row).encode() + b"\n", *lines[1:]]

    return changed


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".away"))
    path.symlink_to(path.with_suffix(".away"))


def manifest(**changes: Any) -> Callable[[Path], object]:
    def change(backup: Path) -> None:
        told = json.loads((backup / "backup.json").read_bytes())
        (backup / "backup.json").write_text(json.dumps(told | changes))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "a flipped bit in a blob": (lambda b: flip(blob(b)), 5),
    "a blob that is shorter": (lambda b: os.truncate(blob(b), 1), 5),
    "a blob that is gone": (lambda b: blob(b).unlink(), 5),
    "a flipped bit in a table": (lambda b: flip(table(b, "versions")), 5),
    "a table that is shorter": (lambda b: os.truncate(table(b, "users"), 10), 5),
    "a table that is gone": (lambda b: table(b, "members").unlink(), 5),
    "a table that is a pipe": (lambda b: fifo(table(b, "members")), 5),
    "a table that is a link": (lambda b: link(table(b, "members")), 5),
    "a manifest that is a link": (lambda b: link(b / "backup.json"), 5),
    "no manifest": (lambda b: (b / "backup.json").unlink(), 7),
    "a manifest that is no JSON": (lambda b: (b / "backup.json").write_text("{"), 3),
    "a manifest too deep": (lambda b: (b / "backup.json").write_text("[" * 100_000), 3),
    "a manifest too long": (lambda b: (b / "backup.json").write_text(" " * (2 << 20)), 3),
    "rows elsewhere": (manifest(rows="../rows-0000000000000000"), 3),
    "a newer form": (manifest(schema="tilth.backup/2"), 3),
    "a newer revision": (manifest(revision="9999"), 3),
    "a field that is not known": (manifest(more=1), 3),
    "a table elsewhere": (manifest(tables={"../x": {"rows": 0, "size_bytes": 0, "digest": "0" * 64}}), 3),
    "a table that is not known": (manifest(tables={"x": {"rows": 0, "size_bytes": 0, "digest": "0" * 64}}), 3),
    "rows of another type": (lambda b: resealed(b, "users", altered(lambda row: row.update(is_admin="yes"))), 5),
    "a number beyond 64 bits": (lambda b: resealed(b, "users", altered(lambda row: row.update(rev=1 << 80))), 5),
    "a name too long": (lambda b: resealed(b, "users", altered(lambda row: row.update(name="x" * 100))), 5),
    "a column too many": (lambda b: resealed(b, "users", altered(lambda row: row.update(more=1))), 5),
    "a digest that is a path": (lambda b: resealed(b, "blobs", altered(lambda row: row.update(digest="../../x"))), 5),
    "a row twice": (lambda b: resealed(b, "users", lambda lines: [*lines, lines[0]]), 5),
    "a row that names nothing": (lambda b: resealed(b, "members", altered(lambda row: row.update(user_id="0"))), 5),
    "an event that was changed": (lambda b: resealed(b, "events", altered(lambda row: row.update(actor="x"))), 5),
    "events cut off": (lambda b: resealed(b, "events", lambda lines: lines[:-1]), 5),
    "no events at all": (lambda b: resealed(b, "events", lambda lines: []), 5),
    "a line that is deep": (lambda b: resealed(b, "users", lambda lines: [b"[" * 100_000 + b"\n"]), 5),
    "a last line without an end": (lambda b: resealed(b, "users", lambda lines: [lines[0][:-1]]), 5),
    "a version whose blob is not named": (lambda b: resealed(b, "blobs", lambda lines: lines[1:]), 5),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_backup_that_was_damaged_or_changed_is_not_put_back(
    what: str, backup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, code = DAMAGE[what]
    damage(backup)
    home = tmp_path / "home"
    assert main(["restore", str(backup), "--home", str(home)]) == code
    told = capsys.readouterr().err
    assert "Traceback" not in told and "unexpected" not in told
    assert not (home / "store.db").exists()
    if what not in ("a row twice", "a row that names nothing", "a newer revision"):
        # What only a database can see is found when it is put back.
        assert main(["restore", str(backup), "--check"]) == code


# -- where it may go


def test_nothing_is_written_over_a_store(kept: Path, full: Path) -> None:
    before = (full / "store.db").read_bytes()
    found = tilth("restore", kept, "--home", full)
    assert found.returncode == 6 and "there is a store" in found.stderr
    assert (full / "store.db").read_bytes() == before


def test_a_home_that_is_in_use_is_refused(kept: Path, tmp_path: Path) -> None:
    with Up(tmp_path / "home"):
        assert tilth("restore", kept, "--home", tmp_path / "home").returncode == 6


def test_a_folder_of_other_things_is_left_alone(full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir(mode=0o700)
    (folder / "letter.txt").write_text("mine")
    found = tilth("backup", folder, "--home", full)
    assert found.returncode == 6 and "`letter.txt` is in it" in found.stderr
    assert (folder / "letter.txt").read_text() == "mine"


def test_a_folder_that_others_can_read_is_refused(full: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    assert "chmod 700" in tilth("backup", tmp_path / "open", "--home", full).stderr


def test_no_control_plane_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    found = tilth("backup", tmp_path / "backup", "--home", tmp_path / "home")
    assert found.returncode == 7 and "there is no store" in found.stderr
    assert not (tmp_path / "home").exists()


def test_a_flipped_bit_in_the_store_of_blobs_is_found_when_it_is_copied(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "home")
    flip(blob(tmp_path / "home"))
    found = tilth("backup", tmp_path / "backup", "--home", tmp_path / "home")
    assert found.returncode == 5 and "holds other bytes" in found.stderr
    assert not (tmp_path / "backup" / "backup.json").exists()


def test_a_blob_that_is_gone_is_found_and_the_backup_of_before_stays(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "home")
    done("backup", tmp_path / "backup", "--home", tmp_path / "home")
    for path in (tmp_path / "home/blobs", tmp_path / "backup/blobs"):
        (path / blob(tmp_path / "home").relative_to(tmp_path / "home/blobs")).unlink(missing_ok=True)
        break
    gone = {p.name for p in (tmp_path / "backup/blobs").rglob("*")} - {
        p.name for p in (tmp_path / "home/blobs").rglob("*")
    }
    assert len(gone) == 1
    # The folder still has it: a backup heals nothing, and loses nothing.
    assert "sound" in done("restore", tmp_path / "backup", "--check")
    other = tilth("backup", tmp_path / "other", "--home", tmp_path / "home")
    assert other.returncode == 5 and "is gone from the store of blobs" in other.stderr


def taken(home: Path, folder: Path, tell: Callable[..., None]) -> None:
    """Take a backup in this process, and be told how far it is."""
    source = wiring.blob_store(str(home / "blobs"))
    take(
        f"sqlite:///{home}/store.db",
        source,
        folder,
        lambda: wiring.blob_store(str(folder / "blobs")),
        alone=True,
        progress=tell,
    )


def test_a_backup_that_is_stopped_anywhere_leaves_the_one_before(full: Path, tmp_path: Path) -> None:
    home, before, folder = tmp_path / "home", tmp_path / "before", tmp_path / "backup"
    shutil.copytree(full, home)
    taken(home, before, lambda *_: None)
    with Up(home, "--new-token") as up, Client(up.address, up.secret) as client:
        client.push(written(sample(9.0), tmp_path / "m.tilth"), "m")
        client.versions.remove("m", "1")
    seen = steps = 0

    def tell(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == steps:
            raise KeyboardInterrupt

    while seen == steps:
        seen, steps = 0, steps + 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        try:
            taken(home, folder, tell)
        except KeyboardInterrupt:
            assert check(folder, wiring.blob_store(str(folder / "blobs"))).blobs > 0
    assert steps > 20


def test_a_restore_that_is_killed_anywhere_leaves_no_store_and_goes_on(kept: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for pause_s in (0.4, 0.6, 0.7):
        command = [sys.executable, "-m", "tilth", "restore", str(kept), "--home", str(home)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)
        if (home / "store.db").exists():
            break
    else:
        done("restore", kept, "--home", home)
    with Up(home, "--new-token") as up, Client(up.address, up.secret) as client:
        assert client.events.check().sound and client.models.get("m").newest == 2
    done("backup", tmp_path / "again", "--home", home)


def test_two_backups_into_one_folder_do_not_mix(full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    found: list[int] = []

    def tell(stage: str, *_: object) -> None:
        if not found:
            found.append(main(["backup", str(folder), "--home", str(full)]))

    taken(full, folder, tell)
    assert found == [6]


def test_a_full_disk_is_told_and_the_backup_of_before_stays(full: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(small)]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        found = tilth("backup", small, "--home", full)
        assert found.returncode == 8 and "Traceback" not in found.stderr, found.stderr
        with pytest.raises(TilthError):
            check(small, wiring.blob_store(str(small / "blobs")))
    finally:
        subprocess.run(["umount", str(small)], check=True)
