"""`tilth up --tracking`: scripts that know MLflow's two variables, and nobody who knows less."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_here import PYTHON, TRAIN, needs_mlflow, routes, said, script
from plane import Up, World, until

from tilth import wiring
from tilth.bridge.bundle_read import open_bundle
from tilth.client.blobs import Blobs
from tilth.client.errors import ForbiddenError
from tilth.client.lineage import noted
from tilth.client.models import Models
from tilth.client.push import push
from tilth.client.versions import Versions
from tilth.client.wire import Wire
from tilth.control.tracking.screen import Rules
from tilth.core.errors import MissingError

pytestmark = [needs_mlflow, pytest.mark.slow]
API = "/mlflow/api/2.0/mlflow"


def started(folder: Path, *more: str, secret: str = "") -> Up:
    up = Up(folder, "--tracking", "--tracking-python", PYTHON, *more, secret=secret)
    until(lambda: up.ask("GET", "/mlflow/health").status_code == 200, up.log)
    return up


def pid_of(home: Path) -> int:
    """Return the process of the tracking server of a home, 0 for none."""
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes()
            if b"mlflow" in words and str(home / "tracking").encode() in words:
                return int(one.parent.name)
        except OSError:
            continue
    return 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking") / "home"


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator[Up]:
    with started(home) as made:
        yield made


@pytest.fixture(scope="module")
def people(up: Up) -> World:
    made = World(up, {"admin": up.secret})
    up.made("POST", "/v1/projects", {"name": "one"})
    for role in ("viewer", "developer"):
        made.user(role, one=role)
    made.people["caller"] = made.token(user="developer", name="calls", project="one", role="caller")
    return made


@pytest.fixture(scope="module")
def trained(up: Up, people: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The ids of a run that a developer's script has logged."""
    folder = tmp_path_factory.mktemp("train")
    found: dict[str, str] = said(script(folder, TRAIN, f"{up.address}/mlflow", people.people["developer"]))
    return found


# -- scripts


def test_two_variables_are_all_that_a_training_script_needs(up: Up, people: World, trained: dict[str, str]) -> None:
    told = up.get(f"{API}/runs/get?run_id={trained['run']}", who=people.people["viewer"])["run"]
    assert {one["key"]: one["value"] for one in told["data"]["params"]} == {"C": "1.0"}
    assert told["info"]["status"] == "FINISHED" and len(told["outputs"]["model_outputs"]) == 2
    version = up.get(f"{API}/model-versions/get?name=turbine&version=1")["model_version"]
    assert version["run_id"] == trained["run"]
    listed = up.get(f"{API}/artifacts/list?run_id={trained['run']}&path=notes")
    assert [one["path"] for one in listed["files"]] == ["notes/read me.txt"]
    text = up.ask("GET", f"/mlflow/get-artifact?run_uuid={trained['run']}&path=notes/read%20me.txt")
    assert text.text == "hello" and text.headers["content-disposition"] == "attachment"


def test_what_a_script_writes_is_in_the_audit_log_once_a_run_and_not_once_a_metric(
    up: Up, trained: dict[str, str]
) -> None:
    told = [one for one in up.get("/v1/events?limit=200")["items"] if one["action"] == "tracking.write"]
    of_run = [one for one in told if one["subject"] == f"tracking/mlflow/runs/{trained['run']}"]
    assert 1 <= len(of_run) <= 3 and {one["actor"] for one in of_run} == {"user:developer"}
    assert len(told) < 20


def test_a_viewer_cannot_write_and_a_script_without_a_token_does_nothing(up: Up, people: World, tmp_path: Path) -> None:
    before = up.get(f"{API}/experiments/search?max_results=100")
    for token in (people.people["viewer"], "", "tilth_wrong"):
        done = script(tmp_path, "import mlflow; mlflow.create_experiment('mine')", f"{up.address}/mlflow", token)
        assert done.returncode != 0
        assert ("may not do `tracking.write`" if token == people.people["viewer"] else "credential") in done.stderr
    assert up.get(f"{API}/experiments/search?max_results=100") == before


def test_a_developer_deletes_nothing(up: Up, people: World, trained: dict[str, str]) -> None:
    who = people.people["developer"]
    assert up.ask("POST", f"{API}/runs/delete", {"run_id": trained["run"]}, who=who).status_code == 403
    assert up.ask("DELETE", f"{API}/registered-models/delete", {"name": "turbine"}, who=who).status_code == 403
    artifact = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{trained['experiment']}/{trained['run']}/artifacts/notes"
    assert up.ask("DELETE", artifact, who=who).status_code == 403


# -- every route that MLflow has


def test_every_route_of_both_of_its_frameworks_is_judged_and_behind_the_login(
    up: Up, people: World, tmp_path: Path
) -> None:
    rules, found = Rules(wiring.trackers()[0].rules()), routes(tmp_path)
    assert len(found) > 300 and {method for method, _ in found} <= {"GET", "POST", "PUT", "PATCH", "DELETE"}
    for method, route in found:
        path = re.sub(r"<[^>]*>|\{[^}]*\}", "x", route).removeprefix("/")
        try:
            right = rules.find(method, path).right  # MissingError when nobody has judged it
        except ForbiddenError:
            right = "closed"
        if method == "DELETE" and "/tags" not in path:
            assert right in ("rule", "closed"), route
        nobody = up.ask(method, f"/mlflow/{path}", who="")
        assert nobody.status_code == (303 if path == "" else 401), route
        # At the root of the port, where MLflow believes to be, there is none of it.
        assert up.ask(method, f"/{path}", who="").status_code in (
            (200, 303, 401) if path in ("", "health") else (404, 405)
        )
        if right != "read":
            assert up.ask(method, f"/mlflow/{path}", who=people.people["viewer"]).status_code == 403, route
        if right in ("rule", "closed"):
            assert up.ask(method, f"/mlflow/{path}", who=people.people["developer"]).status_code == 403, route


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("experiments/create", {"name": "x", "artifact_location": "file:///etc"}),
        ("experiments/create", {"name": "x", "artifactLocation": "/etc"}),
        ("model-versions/create", {"name": "turbine", "source": "/etc"}),
        ("model-versions/create", {"name": "turbine", "source": "mlflow-artifacts:/../../../etc"}),
        ("runs/set-tag", {"run_id": "x", "key": "mlflow.artifactLocation", "value": "file:///etc"}),
    ],
)
def test_a_place_of_the_servers_own_machine_is_refused(up: Up, people: World, path: str, body: Any) -> None:
    found = up.ask("POST", f"{API}/{path}", body, who=people.people["developer"])
    assert found.status_code == 422 and "another place" in found.json()["what"]


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "%252e%252e/%252e%252e/etc/passwd", "..%255c..%255cetc"])
def test_an_artifact_path_does_not_leave_the_artifacts(up: Up, trained: dict[str, str], name: str) -> None:
    for path in (
        f"/mlflow/get-artifact?run_uuid={trained['run']}&path={name}",
        f"{API}/artifacts/list?run_id={trained['run']}&path={name}",
        f"/mlflow/api/2.0/mlflow-artifacts/artifacts?path={name}",
    ):
        assert up.ask("GET", path).status_code == 400, path


# -- pages


def test_its_pages_come_with_a_policy_and_nothing_of_theirs_can_be_framed(up: Up) -> None:
    page = up.ask("GET", "/mlflow/")
    policy = page.headers["content-security-policy"]
    assert f"script-src {up.address}/mlflow/static-files/;" in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-frame-options"] == "DENY" and "<script" in page.text
    sources = re.findall(r'src="(static-files/[^"]+\.js)"', page.text)
    assert sources and not re.search(r"<script(?![^>]*src=)", page.text)
    asset = up.ask("GET", f"/mlflow/{sources[0]}")
    assert asset.status_code == 200 and "javascript" in asset.headers["content-type"]


# -- the process


def test_it_listens_on_no_port(up: Up, home: Path) -> None:
    links = []
    for one in Path(f"/proc/{pid_of(home)}/fd").iterdir():
        try:
            links.append(os.readlink(one))
        except OSError:
            continue
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]
        assert not inodes & {line.split()[9] for line in lines}


def test_what_was_logged_outlives_a_killed_server(up: Up, home: Path, trained: dict[str, str]) -> None:
    before = pid_of(home)
    os.kill(before, signal.SIGKILL)
    until(lambda: pid_of(home) not in (0, before), up.log)
    until(lambda: up.ask("GET", "/mlflow/health").status_code == 200, up.log)
    assert up.get(f"{API}/runs/get?run_id={trained['run']}")["run"]["info"]["run_id"] == trained["run"]


def test_artifacts_pass_in_both_directions_without_being_held_in_memory(
    up: Up, home: Path, people: World, trained: dict[str, str]
) -> None:
    size, block = 300 << 20, os.urandom(1 << 20)
    path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{trained['experiment']}/{trained['run']}/artifacts/big.bin"
    before = [_peak(up.pid), _peak(pid_of(home))]
    sent = up.ask("PUT", path, who=people.people["developer"], content=(block for _ in range(size >> 20)))
    assert sent.status_code == 200, sent.text
    whole, count = hashlib.sha256(), 0
    headers = {"Authorization": f"Bearer {people.people['viewer']}"}
    with up.client.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-length"] == str(size)
        for part in answer.iter_raw():
            whole.update(part)
            count += len(part)
    assert count == size and whole.digest() == hashlib.sha256(block * (size >> 20)).digest()
    grown = [after - first for after, first in zip((_peak(up.pid), _peak(pid_of(home))), before, strict=True)]
    assert max(grown) < 64 << 20, grown
    part = up.ask("GET", path, headers={"Range": "bytes=5-9"})
    assert part.status_code == 206 and part.content == block[5:10]


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10


def test_a_killed_control_plane_leaves_no_server_that_blocks_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    first = started(folder)
    made = first.made("POST", f"{API}/experiments/create", {"name": "kept"})["experiment_id"]
    pid = pid_of(folder)
    first.stop(signal.SIGKILL)
    until(lambda: pid_of(folder) == 0)
    with started(folder, secret=first.secret) as second:
        assert second.get(f"{API}/experiments/get-by-name?experiment_name=kept")["experiment"]["experiment_id"] == made
        assert pid_of(folder) not in (0, pid)
    until(lambda: pid_of(folder) == 0)
    first.end_server()


def test_the_control_plane_is_ready_before_the_tracking_server_is(tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--tracking", "--tracking-python", PYTHON) as made:
        assert made.ask("GET", "/health").status_code == 200
        assert not [one for one in made.log().splitlines() if "mlflow is ready" in one]
        until(lambda: made.ask("GET", "/mlflow/health").status_code == 200, made.log)
        told = until(lambda: made.get("/v1/nodes")["items"][0]["facts"].get("tracking_memory_bytes"))
        assert told > 50 << 20


def test_a_python_without_mlflow_is_told_of_before_anything_starts(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "tilth", "up", "--home", str(tmp_path / "home"), "--port", "0"]
    done = subprocess.run(
        [*command, "--tracking-python", str(tmp_path / "python")], capture_output=True, text=True, check=False
    )
    assert done.returncode == MissingError.exit_code
    assert "cannot be run" in done.stderr and "--tracking-python" in done.stderr
    assert time.monotonic() - began < 10


# -- from a run to the registry


def imported(up: Up, token: str, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    given = {"MLFLOW_TRACKING_URI": f"{up.address}/mlflow", "MLFLOW_TRACKING_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "tilth", "import", *words], cwd=folder, env=os.environ | given,
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_logged_graph_is_imported_and_its_version_names_the_run(
    up: Up, people: World, trained: dict[str, str], tmp_path: Path
) -> None:
    token = people.people["developer"]
    done = imported(up, token, tmp_path, f"runs:/{trained['run']}/graph")
    assert done.returncode == 0, done.stderr
    with open_bundle(tmp_path / "graph.tilth") as bundle:
        notes = bundle.manifest.notes
    assert notes["lineage.run"] == f"mlflow:{trained['run']}"
    assert notes["lineage.code"] == "git:9fceb02d0ae598e95dc970b74767f19372d61af8"
    assert re.fullmatch(r'\["vibration@[0-9a-f]+"\]', notes["lineage.data"])
    assert json.loads(notes["run.params"]) == {"C": "1.0"}
    wire = Wire(up.address, token)
    nouns = (Blobs(wire, "one"), Models(wire, "one"), Versions(wire, "one"))
    push(*nouns, tmp_path / "graph.tilth", "turbine", lineage=noted(notes))
    wire.close()
    told = up.get("/v1/projects/one/models/turbine/versions/1", who=people.people["viewer"])["lineage"]
    assert told["run"] == notes["lineage.run"] and told["code"] == notes["lineage.code"]
    assert told["data"] == json.loads(notes["lineage.data"])


def test_a_logged_pickle_is_not_opened_unasked_and_is_with_trust(
    up: Up, people: World, trained: dict[str, str], tmp_path: Path
) -> None:
    token = people.people["viewer"]
    done = imported(up, token, tmp_path, f"mlflow:{trained['run']}/sk")
    assert done.returncode == 5 and "--trust" in done.stderr and not list(tmp_path.iterdir())
    done = imported(up, token, tmp_path, f"mlflow:{trained['run']}/sk", "--trust", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["manifest"]
    assert told["golden"]["origin"] == "given" and told["notes"]["run.flavour"] == "sklearn"


def test_an_import_without_the_right_to_read_gets_nothing(
    up: Up, people: World, trained: dict[str, str], tmp_path: Path
) -> None:
    for token, words in ((people.people["caller"], "may not do"), ("tilth_wrong", "credential")):
        done = imported(up, token, tmp_path, f"mlflow:{trained['run']}/graph")
        assert done.returncode != 0 and words in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_there_is_said_to_be_missing(up: Up, people: World, tmp_path: Path) -> None:
    done = imported(up, people.people["viewer"], tmp_path, f"mlflow:{'0' * 32}/x")
    assert done.returncode != 0 and "no such thing" in done.stderr
