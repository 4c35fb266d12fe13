"""The first steps with a control plane: in the background, beyond one machine, and after all tokens are lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from plane import PATIENCE_S, ROW, Up, expected, sample, until, written

from tilth.client.client import Client

_FREE = ("--port", "0", "--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0", "--json")


def tilth(*arguments: str, code: int = 0) -> Any:
    run = [sys.executable, "-m", "tilth", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == code, done
    return json.loads(done.stdout)


def test_whoever_lost_every_token_gets_another_one_at_a_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Up(home) as up, Client(up.address, up.secret) as client:
        for one in client.tokens.list():
            client.tokens.revoke(one.id)
    told = tilth("up", "--home", str(home), "--new-token", "--detach", *_FREE)
    try:
        with Client(told["address"], told["token"]) as client:
            assert client.me().is_admin
    finally:
        tilth("down", "--home", str(home), "--json")


def test_a_start_in_the_background_that_fails_says_what_one_in_sight_says(tmp_path: Path) -> None:
    wrong = ("up", "--home", str(tmp_path / "home"), "--store", "mysql://db/tilth", *_FREE)
    told = tilth(*wrong, "--detach", code=3)
    assert told["error"] == "InvalidError" and "not the address of a database" in told["what"] and told["hint"]


def test_endpoints_on_every_address_are_told_by_one_that_can_be_called(tmp_path: Path) -> None:
    with Up(tmp_path / "home", "--serve-http", "0.0.0.0:0", "--insecure") as up:
        with Client(up.address, up.secret) as client:
            client.push(written(sample(), tmp_path / "m.tilth"), "m")
            client.endpoints.make("line", "m")
            client.endpoints.deploy("line", "1")
            until(lambda: (seen := client.endpoints.get("line").standing) is not None and seen.state == "ready")
            address = client.me().serving
        assert address.startswith("http://127.0.0.1:")
        body = {"instances": [ROW]}
        headers = {"Authorization": f"Bearer {up.secret}"}
        answer = httpx.post(f"{address}/v1/models/default.line:predict", json=body, headers=headers, trust_env=False)
        assert answer.json()["predictions"][0] == pytest.approx(expected())
