"""What the published OpenAPI document says is what a real server does, whatever it is sent."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from server import Server, bundle

#: Cases for each operation; `TILTH_FUZZ_CASES=100000` looks at more by hand.
CASES = min(2000, int(os.environ.get("TILTH_FUZZ_CASES", "150")) // 10)
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_nothing_that_fits_the_document_or_does_not_brings_the_server_down(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    with Server(f"m={bundle(tmp_path / 'm.tilth')}", "--workers", 1) as server:
        url = f"http://{server.address}/openapi.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run", url, "--max-examples", str(CASES)]
        command += ["--checks", CHECKS, "--seed", "1", "--no-color", "--exclude-path-regex", "unload"]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, env=environment)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert found and found[1] == found[2] and int(found[1]) > 300, done.stdout[-500:]
        assert "fault" not in server.log() and server.infer("m").status == 200
