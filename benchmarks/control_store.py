"""A store as large as a company's: 100,000 versions, 10,000 devices, and the events of making them; and PostgreSQL."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tilth.control.clock import now_us
from tilth.control.row_id import new_id
from tilth.control.store import audit
from tilth.control.store.audit import Event
from tilth.control.store.database import Database
from tilth.control.store.tables import devices, models, nodes, projects, users, uses, versions
from tilth.core.digest import digest

MODELS, PER_MODEL, DEVICES = 200, 500, 10_000
_AT_A_TIME = 5000
_SUMMARY = {
    "name": "fraud",
    "framework": "scikit-learn",
    "framework_version": "1.7.2",
    "made_at": "2026-11-27T00:00:00Z",
    "inputs": [{"name": "X", "dtype": "float32", "shape": ["batch", 64]}],
    "outputs": [
        {"name": "label", "dtype": "int64", "shape": ["batch"]},
        {"name": "probabilities", "dtype": "float32", "shape": ["batch", 10]},
    ],
    "nodes": 9,
    "weights_bytes": 36_864,
    "golden": "given",
    "builds": 14,
    "agree": 12,
    "refused": 6,
    "chosen": [
        {"target": "cpu-x86_64", "goal": goal, "batch": batch, "label": "ort fp32 lean", "device": "Xeon",
         "max_rel": 1e-6, "p50_ms": 0.02, "rows_per_s": 50_000.0}
        for goal, batch in (("latency", 1), ("throughput", 256))
    ],
}  # fmt: skip


def fill(address: str) -> None:
    """Put the rows into a store that was started once, in a few transactions."""
    database = Database(address)
    try:
        with database.read() as connection:
            project = connection.execute(sa.select(projects.c.id)).scalar_one()
            user = connection.execute(sa.select(users.c.id)).scalar_one()
        stamp = {"created_us": now_us(), "created_by": user, "rev": 1}
        with database.write() as connection:
            rows = [_model(number, project, stamp) for number in range(MODELS)]
            _insert(connection, models, rows)
            for row in rows:
                made = [_version(row, number, stamp) for number in range(1, PER_MODEL + 1)]
                _insert(connection, versions, made)
                needed = [{"version_id": one["id"], "digest": one["digest"], "project_id": project} for one in made]
                _insert(connection, uses, needed)
                audit.append(connection, *(_event(project, row["name"], one) for one in made))
        with database.write() as connection:
            machines = [_node(number, stamp) for number in range(DEVICES)]
            _insert(connection, nodes, machines)
            _insert(connection, devices, [_device(one, stamp) for one in machines])
    finally:
        database.close()
    settle(address)


def settle(address: str) -> None:
    """Do what a database does by itself some minutes after so many rows have come."""
    url = sa.make_url(address)
    lite = url.get_backend_name() == "sqlite"
    engine = sa.create_engine(url if lite else url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    statements = ["ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"] if lite else ["VACUUM ANALYZE", "CHECKPOINT"]
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def _model(number: int, project: str, stamp: dict[str, Any]) -> dict[str, Any]:
    fixed = {"description": "", "tags": {"team": "risk"}, "approve": [], "deploy": [], "newest": PER_MODEL}
    return {"id": new_id(), "project_id": project, "name": f"model-{number:03}", **fixed, **stamp}


def _version(model: dict[str, Any], number: int, stamp: dict[str, Any]) -> dict[str, Any]:
    fixed = {"size_bytes": 264_896, "stage": "none", "description": "", "tags": {"note": "weekly"}, "summary": _SUMMARY}
    lineage = {"run": f"mlflow:{number:032x}", "data": [], "parent": "", "code": ""}
    name = digest(f"{model['name']}:{number}".encode())
    return {
        "id": new_id(),
        "model_id": model["id"],
        "number": number,
        "digest": name,
        "lineage": lineage,
        **fixed,
        **stamp,
    }


def _node(number: int, stamp: dict[str, Any]) -> dict[str, Any]:
    fixed = {"project_id": None, "facts": {}, "address": "", "seen_us": None}
    return {"id": new_id(), "name": f"gateway-{number:05}", "labels": {"site": f"s{number % 50}"}, **fixed, **stamp}


def _device(node: dict[str, Any], stamp: dict[str, Any]) -> dict[str, Any]:
    fixed = {"name": "cpu:0", "target": "cpu-aarch64", "facts": {"cores": 4}}
    return {"id": new_id(), "node_id": node["id"], **fixed, **stamp}


def _event(project: str, model: str, version: dict[str, Any]) -> Event:
    subject = f"default/models/{model}/versions/{version['number']}"
    return Event("user:admin", "version.push", subject, project, {"digest": version["digest"]})


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _AT_A_TIME):
        connection.execute(table.insert(), rows[start : start + _AT_A_TIME])


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a server with its usual settings, on a socket of its own, and yield the address of an empty database.

    Raises:
        FileNotFoundError: Debian's postgresql is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise FileNotFoundError("there is no PostgreSQL server (apt-get install postgresql)")
    programs, folder = found[-1].parent, Path(tempfile.mkdtemp(prefix="tilth-pg-", dir="/tmp"))
    root = os.geteuid() == 0
    who: dict[str, Any] = {}
    if root:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        who = {"user": owner.pw_uid, "group": owner.pw_gid}

    def run(*command: object) -> None:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd=folder, **who)

    try:
        run(programs / "initdb", "-D", folder / "data", "--auth=trust", "--username=tilth", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        run(programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
        yield f"postgresql://tilth@/postgres?host={folder}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
