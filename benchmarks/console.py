"""How long do the console's pages take on the server, with 1,000 models in a project?

    python benchmarks/console.py BUNDLE [--models 1000] [--out out/console.json]

Starts a control plane in a temporary folder, fills a project, and loads every page again and again over one connection.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx

from tilth.core.digest import digest

_P = "/v1/projects/default"
_PAGES = {
    "overview": "/console/p/default",
    "models": "/console/p/default/models",
    "models, filtered": "/console/p/default/models?prefix=model-09",
    "model": "/console/p/default/models/sample",
    "version": "/console/p/default/models/sample/versions/1",
    "endpoints": "/console/p/default/endpoints",
    "endpoint": "/console/p/default/endpoints/endpoint-00",
    "approvals": "/console/p/default/approvals?state=all",
    "events": "/console/p/default/events",
    "events, nothing found": "/console/p/default/events?text=no-such-thing",
    "members": "/console/p/default/settings",
    "nodes": "/console/nodes",
    "projects": "/console/projects",
    "users": "/console/users",
    "tokens": "/console/account",
    "all events": "/console/events",
}


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--times", type=int, default=60)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tilth", "up", "--home", f"{folder}/home", "--port", "0", "--json"]
        command += ["--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            try:
                told = json.loads(process.stdout.readline())
                with httpx.Client(base_url=told["address"], timeout=60) as client:
                    fill(client, told["token"], chosen.bundle, chosen.models)
                    rows = measured(client, told["token"], chosen.times)
            finally:
                process.terminate()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {chosen.models} models")
    print(f"{'page':24} {'p50 ms':>8} {'p95 ms':>8} {'kB':>7}")
    for name, row in rows.items():
        print(f"{name:24} {row['p50_ms']:8.1f} {row['p95_ms']:8.1f} {row['bytes'] / 1e3:7.1f}")
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def fill(client: httpx.Client, token: str, bundle: Path, models: int) -> None:
    """Make models, a model with 20 versions, and 40 endpoints."""

    def ask(method: str, path: str, told: Any = None) -> Any:
        found = client.request(method, path, json=told, headers={"Authorization": f"Bearer {token}"})
        found.raise_for_status()
        return found.json()

    for number in range(models):
        tags = {"team": f"team-{number % 7}", "use": "measuring"}
        ask("POST", f"{_P}/models", {"name": f"model-{number:04}", "description": "One of many.", "tags": tags})
    ask("POST", f"{_P}/models", {"name": "sample", "approve": ["production"]})
    with zipfile.ZipFile(bundle) as archive:
        manifest = archive.read("manifest.json")
        blobs = {name.partition("/")[2]: archive.read(name) for name in archive.namelist() if name.startswith("blobs/")}
    for name, data in (blobs | {digest(manifest): manifest}).items():
        client.put(f"{_P}/blobs/{name}", content=data, headers={"Authorization": f"Bearer {token}"}).raise_for_status()
    for _ in range(20):
        ask("POST", f"{_P}/models/sample/versions", {"digest": digest(manifest)})
    for number in range(20):
        ask("POST", f"{_P}/models/sample/versions/{number + 1}/stage", {"stage": "production"})
    for number in range(40):
        ask("POST", f"{_P}/endpoints", {"name": f"endpoint-{number:02}", "model": "sample"})
    for version in range(1, 9):
        ask("POST", f"{_P}/endpoints/endpoint-00/deploy", {"version": str(version), "traffic": 100 / version})


def measured(client: httpx.Client, token: str, times: int) -> dict[str, dict[str, float]]:
    """Return figures by page: each is loaded `times` times, after twice that do not count."""
    origin = str(client.base_url).rstrip("/")
    client.post("/console/sign-in", data={"token": token}, headers={"Origin": origin})
    made = {}
    for name, path in _PAGES.items():
        seen = []
        for number in range(times + 2):
            start = time.perf_counter()
            found = client.get(path)
            if number >= 2:
                seen.append((time.perf_counter() - start) * 1e3)
            assert found.status_code in (200, 303), (path, found.status_code)
        seen.sort()
        p95 = seen[int(len(seen) * 0.95)]
        made[name] = {"p50_ms": statistics.median(seen), "p95_ms": p95, "bytes": len(found.content)}
    return made


if __name__ == "__main__":
    main()
