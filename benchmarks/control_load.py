"""An open load: requests leave at fixed times whether or not earlier ones are answered, in a process of its own.

A time counts from when the request was due, so that a server that stalls pays for everyone who waited.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass

CONNECTIONS = 32


@dataclass(frozen=True)
class Plan:
    """What is asked: requests by kind, each a method, a path and a body, taken in turn."""

    host: str
    port: int
    token: str
    rate: float
    seconds: float
    kinds: dict[str, list[tuple[str, str, str]]]


async def _connection(
    plan: Plan, queue: "asyncio.Queue[tuple[str, float] | None]", told: dict[str, list[float]]
) -> None:
    reader, writer = await asyncio.open_connection(plan.host, plan.port)
    random_source = random.Random(id(queue))  # noqa: S311
    while (job := await queue.get()) is not None:
        kind, due = job
        method, path, body = random_source.choice(plan.kinds[kind])
        head = f"{method} {path} HTTP/1.1\r\nhost: {plan.host}:{plan.port}\r\nauthorization: Bearer {plan.token}\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write((head + "\r\n" + body).encode())
        status, size = 0, 0
        while (line := await reader.readline()) != b"\r\n":
            if not status:
                status = int(line.split()[1])
            elif line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        await reader.readexactly(size)
        took = (time.perf_counter() - due) * 1e3
        told.setdefault(kind if status < 400 else f"failed {status}", []).append(took)
    writer.close()


async def drive(plan: Plan) -> dict[str, list[float]]:
    """Return the times in ms by kind."""
    queue: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()
    told: dict[str, list[float]] = {}
    workers = [asyncio.create_task(_connection(plan, queue, told)) for _ in range(CONNECTIONS)]
    names, start, count = list(plan.kinds), time.perf_counter() + 0.2, int(plan.rate * plan.seconds)
    for number in range(count):
        due = start + number / plan.rate
        while (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        queue.put_nowait((names[number % len(names)], due))
    for _ in workers:
        queue.put_nowait(None)
    await asyncio.gather(*workers)
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drive(Plan(**json.loads(sys.stdin.read()))))))
