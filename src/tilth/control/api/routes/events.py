"""Events: listed, followed, exported, checked."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tilth.client.shapes.event import Chain, Event
from tilth.client.shapes.shape import Listing
from tilth.control.api.desk import DEFAULT_LIMIT, Call, Desk, Limit
from tilth.control.store import audit
from tilth.core.errors import TilthError, UntrustedError

_PROJECT = "/v1/projects/{project}/events"
_IDLE_S = 15.0
#: An event that another process wrote is seen this late.
_LOOK_S = 1.0
After = Annotated[int, Query(ge=0, le=2**53, description="The `seq` of the last event that you have.")]
Newest = Annotated[bool, Query(description="Newest first, those before `after`.")]


def declare(desk: Desk, bell: "Bell") -> None:
    """Declare the routes; `bell` rings when there is something new."""

    @desk.read("/v1/events", "audit.read", summary="List all events of this installation")
    def list_all_events(
        call: Call, after: After = 0, limit: Limit = DEFAULT_LIMIT, newest: Newest = False
    ) -> Listing[Event]:
        return _page(call, None, after, limit, newest)

    @desk.read(_PROJECT, "event.read", summary="List the events of a project")
    def list_events(
        call: Call, after: After = 0, limit: Limit = DEFAULT_LIMIT, newest: Newest = False
    ) -> Listing[Event]:
        return _page(call, call.project["id"], after, limit, newest)

    @desk.stream("GET", "/v1/events/stream", "audit.read", summary="Follow all events", kind="text/event-stream")
    async def follow_all_events(call: Call, request: Request, after: After = 0) -> Response:
        return _follow(desk, bell, request, "audit.read", None, after)

    @desk.stream(
        "GET", f"{_PROJECT}/stream", "event.read", summary="Follow a project's events", kind="text/event-stream"
    )
    async def follow_events(call: Call, request: Request, after: After = 0) -> Response:
        return _follow(desk, bell, request, "event.read", call.project["id"], after)

    @desk.stream("GET", "/v1/events/export", "audit.read", summary="Export all events", kind="application/x-ndjson")
    async def export_events(call: Call, request: Request, after: After = 0) -> Response:
        return StreamingResponse(_export(desk, after), media_type="application/x-ndjson")

    @desk.read("/v1/events/check", "audit.read", summary="Check that the audit log is what was written")
    def check_events(call: Call) -> Chain:
        count, end = audit.end(call.connection)
        try:
            audit.check_all(call.connection, count, end)
            return Chain(events=count, hash=end, sound=True, why="")
        except UntrustedError as error:
            return Chain(events=count, hash=end, sound=False, why=f"{error.what}: {error.why}")


class Bell:
    """Wakes those who wait for events of this process."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def ring(self) -> None:
        """Wake everyone; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
        self._waiting.clear()

    async def heard(self, most_s: float) -> None:
        """Wait until it rings, at most so long."""
        self._loop = asyncio.get_running_loop()
        future = self._loop.create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(most_s):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(future)


def _page(call: Call, project_id: str | None, after: int, limit: int, newest: bool) -> Listing[Event]:
    found = audit.read(call.connection, after, limit + 1, project_id=project_id, newest=newest)
    more = len(found) > limit
    items = [Event(**asdict(one)) for one in found[:limit]]
    return Listing[Event](items=items, next=str(items[-1].seq) if more else "")


def _follow(
    desk: Desk, bell: Bell, request: Request, action: str, project_id: str | None, after: int
) -> StreamingResponse:
    sent = request.headers.get("last-event-id", "")
    start = int(sent) if sent.isdecimal() and len(sent) < 16 else after

    async def stream() -> AsyncIterator[str]:
        last, quiet = start, 0.0
        yield "retry: 1000\n\n"
        while True:
            found = await asyncio.to_thread(_since, desk, request, action, project_id, last)
            if found is None:
                return
            for one in found:
                last = one.seq
                yield f"id: {one.seq}\nevent: {one.action}\ndata: {json.dumps(asdict(one))}\n\n"
            quiet = 0.0 if found else quiet + _LOOK_S
            if quiet >= _IDLE_S:
                quiet = 0.0
                yield ": still here\n\n"
            if len(found) < audit.PAGE:
                await bell.heard(_LOOK_S)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _since(desk: Desk, request: Request, action: str, project_id: str | None, last: int) -> list[audit.Event] | None:
    """Return what came, None when who follows may not any more: its token was revoked, or its role is another."""
    try:
        desk.admit(request, action)
    except TilthError:
        return None
    with desk.database.read() as connection:
        return audit.read(connection, last, project_id=project_id)


async def _export(desk: Desk, after: int) -> AsyncIterator[str]:
    def page(last: int) -> list[audit.Event]:
        with desk.database.read() as connection:
            return audit.read(connection, last)

    last = after
    while found := await asyncio.to_thread(page, last):
        last = found[-1].seq
        yield "".join(json.dumps(asdict(one)) + "\n" for one in found)
