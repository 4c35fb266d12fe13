"""`tilth serve` whose workers and runners also know the engine `fake`, which misbehaves as a build's settings say.

`python faulty_serve.py NAME=PATH ... [--workers N] ...` prints pid and addresses as one line of JSON. The same script
is its own worker and runner: `python faulty_serve.py worker FD FD`.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from tilth import wiring
from tilth.core.address import parse
from tilth.serve import sources
from tilth.serve.limits import Limits
from tilth.serve.logs import Log
from tilth.serve.settings import Settings
from tilth.serve.supervisor import Supervisor
from tilth.serve.traffic import Policy

ROLES = ("worker", "runner")


def child(role: str, commands: int, replies: int) -> None:
    from tilth.testing.fake_engine import NAME, FakeEngine

    serve = wiring.load(f"tilth.serve.{role}:serve")
    engines = {**wiring.engines(), NAME: FakeEngine()}
    with os.fdopen(commands, encoding="utf-8") as reading, os.fdopen(replies, "w", encoding="utf-8") as writing:
        serve(engines, wiring.this_device, reading, writing)


def main() -> None:
    told = argparse.ArgumentParser()
    told.add_argument("bundles", nargs="*")
    told.add_argument("--models", type=Path)
    told.add_argument("--http", default="127.0.0.1:0")
    told.add_argument("--grpc", default="127.0.0.1:0")
    told.add_argument("--workers", type=int, default=2)
    told.add_argument("--queue", type=int, default=256)
    told.add_argument("--max-body", type=int, default=64 << 20)
    told.add_argument("--body-s", type=float, default=30.0)
    told.add_argument("--isolate", default="auto")
    told.add_argument("--policy", action="append", default=[])
    told.add_argument("--drain", type=float, default=10.0)
    given = told.parse_args()
    settings = Settings(
        models=sources.named(given.bundles),
        folder=given.models,
        http=parse(given.http),
        grpc=parse(given.grpc),
        policies={name: Policy(versions) for name, versions in sources.policies(given.policy).items()},
        workers=given.workers,
        isolation=given.isolate,
        limits=Limits(body_bytes=given.max_body, queue=given.queue, body_s=given.body_s),
        drain_s=given.drain,
    )
    script = str(Path(__file__).resolve())
    worker, runner = ((sys.executable, script, role) for role in ROLES)
    log = Log(sys.stderr, "info")
    asyncio.run(Supervisor(settings, wiring.this_device, worker, runner, None, log, _say).run())


def _say(addresses: object) -> None:
    print(json.dumps({"pid": os.getpid(), **dict(addresses)}), flush=True)  # type: ignore[call-overload]


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ROLES:
        child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
