"""What the published OpenAPI document says is what a real control plane does, whatever it is sent and by whom."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from plane import Up, world

#: Cases for each operation; `TILTH_SCHEMATHESIS_CASES=300` looks at more by hand.
CASES = int(os.environ.get("TILTH_SCHEMATHESIS_CASES", "8"))
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)


@pytest.mark.parametrize("who", ["admin", "viewer"])
def test_nothing_that_fits_the_document_or_does_not_is_answered_otherwise(who: str, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    with Up(tmp_path / "home") as up:
        people = world(up).people
        (tmp_path / "api.json").write_text(json.dumps(up.get("/v1/openapi.json")), encoding="utf-8")
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(tmp_path / "api.json"), "--url", up.address]
        command += ["-H", f"Authorization: Bearer {people.get(who, up.secret)}", "--max-examples", str(CASES)]
        # Streams of events have no end; and whoever ends its own token learns nothing more.
        command += ["--checks", CHECKS, "--seed", "1", "--no-color", "--exclude-path-regex", "stream"]
        command += ["--exclude-operation-id", "revoke_token", "--exclude-operation-id", "change_user"]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        limit_s = 200 + 20 * CASES
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, env=environment)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert found and found[1] == found[2] and int(found[1]) > 500, done.stdout[-500:]
        assert "Traceback" not in up.log() and up.get("/v1/events/check")["sound"]
