"""The commands of a control plane, against a real one: what they do, what they print, and what they refuse."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from plane import PATIENCE_S, Up, sample, written

from tilth.cli.main import main
from tilth.client.login import Login, keep_login, kept_login


@dataclass
class Shell:
    """Runs commands in this process, as somebody who keeps a login in a folder of its own."""

    up: Up
    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def login(self) -> Path:
        return self.folder / "login.json"

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command and return what it printed, on standard error where it fails."""
        found = main([*arguments])
        printed = self.capsys.readouterr()
        assert found == code, printed
        return printed.err if code else printed.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        found = main([*arguments, "--json"])
        printed = self.capsys.readouterr()
        assert found == code and printed.err == "", printed
        return json.loads(printed.out)

    def bundle(self, scale: float, **more: Any) -> str:
        path = self.folder / f"m{scale:g}.tilth"
        return str(path if path.exists() else written(sample(scale, **more), path))

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "TILTH_LOGIN": str(self.login), **more}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("commands") / "home") as made:
        yield made


@pytest.fixture
def nobody(up: Up, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Somebody who is not logged in."""
    for name in ("TILTH_URL", "TILTH_TOKEN", "TILTH_PROJECT", "TILTH_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TILTH_LOGIN", str(tmp_path / "login.json"))
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(up, tmp_path, capsys)


@pytest.fixture
def admin(nobody: Shell) -> Shell:
    """The administrator, in a project of its own."""
    name = f"p-{nobody.folder.name.lower().replace('_', '-')[:40]}".strip("-")
    keep_login(nobody.login, Login(nobody.up.address, nobody.up.secret, name))
    nobody.json("projects", "add", name)
    return nobody


# -- who you are


def test_a_token_is_tried_before_it_is_kept(nobody: Shell, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("tilth_" + "x" * 43)
    assert "not accepted" in nobody.run("login", nobody.up.address, "--token-file", str(tmp_path / "wrong"), code=6)
    assert kept_login(nobody.login) is None
    (tmp_path / "right").write_text(nobody.up.secret + "\n")
    told = nobody.json("login", nobody.up.address, "--token-file", str(tmp_path / "right"))
    assert (told["user"], told["project"]) == ("admin", "default") and "secret" not in str(told)
    assert kept_login(nobody.login) == Login(nobody.up.address, nobody.up.secret)
    assert nobody.login.stat().st_mode & 0o777 == 0o600


def test_a_project_that_is_not_there_is_not_kept(nobody: Shell, tmp_path: Path) -> None:
    (tmp_path / "right").write_text(nobody.up.secret)
    nobody.run("login", nobody.up.address, "--token-file", str(tmp_path / "right"), "-p", "nowhere", code=7)
    assert not nobody.login.exists()


def test_the_token_is_no_argument_that_others_can_read(nobody: Shell) -> None:
    assert "No such option" in nobody.run("login", nobody.up.address, "--token", nobody.up.secret, code=2)


def test_a_token_comes_through_a_pipe(nobody: Shell) -> None:
    command = [sys.executable, "-m", "tilth", "login", nobody.up.address]
    done = subprocess.run(
        command, input=nobody.up.secret + "\n", env=nobody.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"logged in at {nobody.up.address} as admin" in done.stdout and nobody.up.secret not in done.stdout


def test_a_login_that_others_can_read_is_refused(admin: Shell) -> None:
    admin.login.chmod(0o640)
    assert "chmod 600" in admin.run("models", code=6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"url":1,"token":"t"}',
        '{"url":"http://127.0.0.1:1"}',
        '{"url":"ftp://x","token":"t"}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_login_is_told_and_nothing_is_sent(nobody: Shell, text: str) -> None:
    nobody.login.write_text(text)
    nobody.login.chmod(0o600)
    assert "is not a login" in nobody.run("models", code=3)


def test_one_variable_of_two_never_sends_a_kept_token_elsewhere(admin: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILTH_URL", "https://elsewhere.invalid")
    assert "belong together" in admin.run("models", code=3)


def test_variables_win_over_the_kept_login(nobody: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_login(nobody.login, Login("http://127.0.0.1:9", "tilth_" + "x" * 43))
    monkeypatch.setenv("TILTH_URL", nobody.up.address)
    monkeypatch.setenv("TILTH_TOKEN", nobody.up.secret)
    assert [one["name"] for one in nobody.json("projects")][0] == "default"


def test_a_token_that_was_revoked_at_logout_is_of_no_use(admin: Shell) -> None:
    made = admin.json("tokens", "add", "short")
    keep_login(admin.login, Login(admin.up.address, made["secret"]))
    assert "its token has ended" in admin.run("logout", "--revoke")
    assert not admin.login.exists()
    assert admin.up.ask("GET", "/v1/me", who=made["secret"]).status_code == 401
    assert "not logged in" in admin.run("logout", code=7)


def test_without_a_login_every_command_says_how_to_get_one(nobody: Shell) -> None:
    for command in (["models"], ["push", nobody.bundle(1.0)], ["deploy", "m:1"], ["events"], ["tokens"], ["users"]):
        assert "run `tilth login URL`" in nobody.run(*command, code=7)


def test_a_control_plane_that_is_away_is_an_error_of_its_own(nobody: Shell) -> None:
    keep_login(nobody.login, Login("http://127.0.0.1:9", "tilth_" + "x" * 43))
    assert "does not answer" in nobody.run("models", code=8)


# -- models


def test_a_bundle_goes_in_and_comes_back_as_it_was(admin: Shell, tmp_path: Path) -> None:
    path = admin.bundle(2.0)
    told = admin.json(
        "push", path, "fraud", "-a", "champion", "-t", "site=hamburg", "--run", "mlflow:1", "--data", "d@3"
    )
    version = told["version"]
    assert (version["number"], version["aliases"], version["tags"]) == (1, ["champion"], {"site": "hamburg"})
    assert (version["lineage"]["run"], version["lineage"]["data"]) == ("mlflow:1", ["d@3"])
    assert told["sent_bytes"] > 0 and told["made_model"]
    assert "0 B sent" in admin.run("push", path, "fraud")
    back = tmp_path / "back.tilth"
    assert "fraud:1" in admin.run("pull", "fraud:champion", "-o", str(back))
    assert back.read_bytes() == Path(path).read_bytes()


def test_a_push_without_a_name_takes_the_one_of_the_bundle(admin: Shell) -> None:
    assert admin.json("push", admin.bundle(2.0))["version"]["model"] == "affine"


def test_aliases_stages_and_tags_are_changed_and_shown(admin: Shell) -> None:
    admin.json("push", admin.bundle(1.0), "m")
    admin.json("push", admin.bundle(2.0), "m")
    assert "m:best is m:2" in admin.run("models", "alias", "m:latest", "best")
    assert "m:1 is in staging" in admin.run("models", "stage", "m:1", "staging")
    admin.run("models", "change", "m:1", "-t", "a=b", "--description", "the first")
    shown = admin.run("models", "show", "m")
    assert "best is 2" in shown and "staging" in shown
    assert "a=b" in admin.run("models", "show", "m:1") and "the first" in admin.run("models", "show", "m:1")
    admin.run("models", "alias", "m", "best", "--remove")
    admin.run("models", "remove", "m:2")
    assert [one["number"] for one in admin.json("models", "show", "m")["versions"]] == [1]
    admin.run("models", "remove", "m", code=6)
    admin.run("models", "remove", "m:1")
    admin.run("models", "remove", "m")
    assert admin.json("models") == []


def test_a_stage_waits_for_a_second_person_who_decides_by_command(admin: Shell) -> None:
    admin.json("models", "add", "m", "--approve", "production", "--deploy", "production")
    admin.json("push", admin.bundle(1.0), "m")
    assert "tilth models stage m:1 production" in admin.run("deploy", "m:1", code=6)
    asked = admin.json("models", "stage", "m:1", "production")
    assert asked["state"] == "waiting"
    assert asked["id"] in admin.run("approvals")
    assert admin.run("approvals", "accept", asked["id"], code=6)
    name = f"second-{admin.folder.name[-12:].strip('_').lower()}".replace("_", "-")
    admin.json("users", "add", name)
    admin.json("members", "add", name, "operator")
    secret = admin.json("tokens", "add", "hers", "--user", name)["secret"]
    login = kept_login(admin.login)
    assert login is not None
    keep_login(admin.login, Login(login.url, secret, login.project))
    assert "accepted" in admin.run("approvals", "accept", asked["id"], "--note", "seen")
    assert admin.run("approvals") == "nothing waits\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["push", "{folder}/none.tilth"], 7, "leads nowhere"),
        (["push", "{folder}/junk.tilth"], 5, "is not a bundle"),
        (["push", "{bundle}", "../x"], 3, "is not MODEL"),
        (["push", "{bundle}", "m", "-t", "no-equals"], 3, "is not a tag"),
        (["push", "{bundle}", "m", "-t", "=x"], 3, "is not a tag"),
        (["pull", "m:1:2"], 3, "is not MODEL"),
        (["pull", "nothing"], 7, "there is no model"),
        (["models", "show", "nothing:3"], 7, "there is no model"),
        (["models", "stage", "m:1", "prod"], 2, "is not a stage"),
        (["models", "change", "m:1", "--deploy", "staging"], 2, "are for a model"),
        (["models", "shwo"], 2, "shwo"),
        (["deploy", "m"], 3, "no version is named"),
        (["deploy", "m:1"], 7, "there is no model"),
        (["deploy", "m:1", "--traffic", "101%"], 3, "is not a share"),
        (["deploy", "m:1", "--traffic", "nan"], 3, "is not a share"),
        (["deploy", "m:1", "--shadow", "-1"], 3, "is not a share"),
        (["promote", "nothing"], 7, "there is no endpoint"),
        (["rollback", "nothing"], 7, "there is no endpoint"),
        (["endpoints", "remove", "nothing"], 7, "there is no endpoint"),
        (["endpoints", "-p", "../x"], 3, "is no name of a project"),
        (["tokens", "add", "t", "--role", "king"], 2, "is not a role"),
        (["tokens", "add", "t", "--expires", "soon"], 3, "is not a duration"),
        (["tokens", "add", "t", "--expires", "9999999d"], 3, ""),
        (["tokens", "revoke", "nothing"], 7, "there is no such token"),
        (["members", "add", "nobody-there", "viewer"], 7, "there is no user"),
        (["members", "add", "admin", "king"], 2, "is not a role"),
        (["users", "disable", "nobody-there"], 7, "there is no user"),
        (["nodes", "remove", "nothing"], 7, "there is no node"),
        (["events", "--after", "-1"], 2, "after"),
        (["approvals", "accept", "nothing"], 7, ""),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_made(admin: Shell, arguments: list[str], code: int, says: str) -> None:
    (admin.folder / "junk.tilth").write_bytes(b"PK\x03\x04 no bundle")
    filled = [one.replace("{folder}", str(admin.folder)).replace("{bundle}", admin.bundle(1.0)) for one in arguments]
    told = admin.run(*filled, code=code)
    assert says in told and "Traceback" not in told
    assert set(admin.json(*filled, code=code)) == {"error", "what", "why", "hint"}
    assert admin.json("models") == [] and admin.json("endpoints") == []


def test_gates_of_a_model_are_taken_away_by_none(admin: Shell) -> None:
    admin.json("models", "add", "m", "--approve", "production", "--deploy", "production")
    changed = admin.json("models", "change", "m", "--approve", "none", "--deploy", "none")
    assert (changed["approve"], changed["deploy"]) == ([], [])


def test_a_version_is_shown_with_where_it_is_from_as_people_write_it(admin: Shell) -> None:
    admin.json("push", admin.bundle(1.0), "m", "--data", "may", "--data", "june", "--run", "7")
    shown = admin.run("models", "show", "m:1")
    assert "  from data may, june\n" in shown and "  from run 7\n" in shown
    assert "" not in shown.rstrip("\n").split("\n"), shown


# -- endpoints


def test_a_refused_version_leaves_no_empty_endpoint(admin: Shell) -> None:
    admin.json("models", "add", "m", "--deploy", "production")
    admin.json("push", admin.bundle(1.0), "m")
    assert "may not be deployed" in admin.run("deploy", "m:1", code=6)
    assert admin.json("endpoints") == []


def test_a_canary_is_promoted_and_taken_back(admin: Shell) -> None:
    for scale in (1.0, 2.0):
        admin.json("push", admin.bundle(scale), "m")
    assert "line is ready: m:1 100%" in admin.run("deploy", "m:1", "--to", "line")
    told = admin.json("deploy", "m:2", "--to", "line", "--traffic", "10%", "--note", "a try")
    assert told["endpoint"]["wanted"]["traffic"] == {"1": 90, "2": 10}
    assert told["serving"].startswith("http://127.0.0.1:")
    assert "line is ready: m:2 100%" in admin.run("promote", "line")
    assert "nothing to promote" in admin.run("promote", "line", code=6)
    assert "m:1 90%, m:2 10%" in admin.run("rollback", "line")
    assert "m:1 100%" in admin.run("rollback", "line", "--to", "1")
    shadow = admin.json("deploy", "m:2", "--to", "line", "--shadow", "50%")["endpoint"]["wanted"]
    assert (shadow["traffic"], shadow["shadow"]) == ({"1": 100}, {"2": 50})
    assert "a try" in admin.run("endpoints", "history", "line")
    shown = admin.run("endpoints", "show", "line")
    assert "m:1 100%, m:2 sees 50%" in shown and "/v2/models/" in shown
    admin.run("endpoints", "remove", "line")
    assert admin.run("endpoints").startswith("no endpoint yet")


def test_a_version_that_cannot_serve_fails_the_deploy_and_says_why(admin: Shell) -> None:
    admin.json("push", admin.bundle(1.0), "m")
    admin.json("push", str(written(sample(3.0, wrong=True), admin.folder / "bad.tilth")), "m")
    admin.run("deploy", "m:1", "--to", "line")
    told = admin.json("deploy", "m:2", "--to", "line", code=6)
    assert told["error"] == "RefusedError" and told["why"] and "tilth rollback line" in told["hint"]
    standing = admin.json("endpoints", "show", "line")["endpoint"]["standing"]
    assert standing["traffic"] == {"1": 100}
    admin.run("endpoints", "remove", "line")


def test_who_does_not_wait_is_told_what_is_wanted(admin: Shell) -> None:
    admin.json("push", admin.bundle(1.0), "m")
    assert "m:1 100%" in admin.run("deploy", "m:1", "--wait", "0")
    admin.run("endpoints", "remove", "m")


# -- what happened


def test_events_are_listed_followed_and_checked(admin: Shell) -> None:
    admin.json("push", admin.bundle(1.0), "m")
    listed = admin.json("events")
    done = [one["action"] for one in listed]
    assert done[0] == "project.make" and done[-1] == "version.push" and "model.make" in done
    assert "version.push" in admin.run("events", "-n", "1")
    assert [one["seq"] for one in admin.json("events", "--after", str(listed[0]["seq"]), "-n", "1")] == [
        listed[1]["seq"]
    ]
    assert "is sound" in admin.run("events", "--check")
    exported = [json.loads(line) for line in admin.run("events", "--export").splitlines()]
    assert [one["seq"] for one in exported] == list(range(1, len(exported) + 1))
    command = [sys.executable, "-m", "tilth", "events", "--follow", "--json"]
    with subprocess.Popen(command, env=admin.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["action"] for _ in listed]
        admin.json("models", "add", "later")
        seen.append(json.loads(process.stdout.readline())["action"])
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    assert seen == [*done, "model.make"]


# -- people


def test_a_user_works_with_a_token_until_it_is_disabled(admin: Shell) -> None:
    name = f"bob-{admin.folder.name[-12:].strip('_').lower()}".replace("_", "-")
    assert f"tilth members add {name}" in admin.run("users", "add", name)
    admin.run("members", "add", name, "developer")
    made = admin.json("tokens", "add", "ci", "--user", name, "--role", "viewer", "--expires", "90d")
    assert made["role"] == "viewer" and made["expires_at"]
    login = kept_login(admin.login)
    assert login is not None
    keep_login(admin.login, Login(login.url, made["secret"], login.project))
    assert admin.json("models") == []
    assert "may not do" in admin.run("push", admin.bundle(1.0), "m", code=6)
    keep_login(admin.login, login)
    assert name in admin.run("members") and name in admin.run("users")
    admin.run("users", "disable", name)
    assert admin.up.ask("GET", "/v1/me", who=made["secret"]).status_code == 401
    admin.run("users", "enable", name)
    assert admin.up.ask("GET", "/v1/me", who=made["secret"]).status_code == 200
    admin.run("members", "remove", name)
    admin.run("tokens", "revoke", made["id"])
    assert name not in admin.run("members")


def test_the_secret_alone_is_on_standard_output(admin: Shell) -> None:
    assert main(["tokens", "add", "piped"]) == 0
    printed = admin.capsys.readouterr()
    assert printed.out.startswith("tilth_") and printed.out.count("\n") == 1 and "shown this once" in printed.err


# -- this machine


def test_status_and_down_tell_of_the_control_plane_of_a_home(
    nobody: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    assert not nobody.json("status", "--home", str(home))["here"]["running"]
    assert "no control plane runs" in nobody.run("down", "--home", str(home), code=7)
    with Up(home) as up:
        monkeypatch.setenv("TILTH_HOME", str(home))
        here = nobody.json("status")["here"]
        assert (here["running"], here["answers"], here["address"], here["pid"]) == (True, True, up.address, up.pid)
        (tmp_path / "token").write_text(up.secret)
        # Without an address it is the one of this machine.
        assert nobody.json("login", "--token-file", str(tmp_path / "token"))["url"] == up.address
        assert "as admin" in nobody.run("status")
        assert "has ended" in nobody.run("down")
        assert up.process.wait(PATIENCE_S) == 0
    assert "no control plane runs" in nobody.run("status")


def test_a_push_shows_a_bar_on_a_terminal_and_goes_on_after_ctrl_c(admin: Shell) -> None:
    big = admin.folder / "big.tilth"
    command = [sys.executable, "-m", "tilth", "push", str(written(sample(4.0), big)), "m"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, env=admin.environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        assert process.wait(PATIENCE_S) == 0
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:
        pass
    os.close(ours)
    assert b"upload" in seen and b"\x1b[" in seen
