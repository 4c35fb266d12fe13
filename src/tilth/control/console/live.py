"""Live parts of a page over server-sent events: pieces of HTML, sent when they are others than were sent last.

A stream ends when its session does, when who looks has another role than when it began, and when the control plane
stops. A session has so many streams and no more; a browser keeps one for each page that is in sight.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tilth.client.errors import UnknownError
from tilth.control.api import problem
from tilth.control.api.desk import Call
from tilth.control.api.problem import answer
from tilth.control.console import view
from tilth.control.console.door import Door
from tilth.control.console.frame import Ask
from tilth.control.failure import BusyError
from tilth.core.errors import TilthError

#: Streams of a session at a time, and of all together.
MOST_OF_A_SESSION: Final = 8
MOST: Final = 512
_TICK_S, _IDLE_S = 1.0, 15.0


@dataclass(frozen=True)
class Part:
    """A piece of a page: the id of the element that it fills, or into which it goes first, when it `adds`."""

    name: str
    html: str
    adds: bool = False


@dataclass
class Sent:
    """What a stream has sent: the newest text of each part, and what its handler wants to remember."""

    parts: dict[str, str] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    def fresh(self, found: list[Part]) -> list[Part]:
        """Return the parts that are others than were sent last, and take them as sent."""
        made = [one for one in found if one.adds or self.parts.get(one.name) != one.html]
        self.parts |= {one.name: one.html for one in made if not one.adds}
        return made


Look = Callable[[Call, Ask, dict[str, Any]], list[Part]]
Role = tuple[str | None, bool]


class Live:
    """Declares streams. `heard` waits for something new, at most so long; `ready` says that nothing ends them."""

    def __init__(self, door: Door, heard: Callable[[float], Awaitable[None]], ready: Callable[[], bool]) -> None:
        self._door, self._heard, self._ready = door, heard, ready
        self._open: Counter[str] = Counter()

    def stream(self, path: str, action: str) -> Callable[[Look], Look]:
        """Declare a stream: `(call, ask, memory) -> parts`, asked again and again; `memory` is the stream's own."""

        def declare(look: Look) -> Look:
            async def opened(request: Request) -> Response:
                return await self._opened(request, action, look)

            self._door.add("GET", path, action, opened)
            return look

        return declare

    async def _opened(self, request: Request, action: str, look: Look) -> Response:
        ask = self._door.ask(request)
        try:
            role = await self._door.desk.shows(self._door.who(ask), action, ask.path.get("project"), _role)
            if self._open[ask.secret] >= MOST_OF_A_SESSION or self._open.total() >= MOST:
                raise BusyError(
                    "too many pages follow at a time",
                    why=f"a session may have {MOST_OF_A_SESSION} that do",
                    hint="close some",
                )
        except TilthError as error:
            return answer(error)
        self._open[ask.secret] += 1
        return _Stream(self._events(ask, action, look, role), partial(self._closed, ask.secret))

    def _closed(self, secret: str) -> None:
        self._open[secret] -= 1
        if self._open[secret] <= 0:
            del self._open[secret]

    async def _events(self, ask: Ask, action: str, look: Look, role: Role) -> AsyncIterator[str]:
        sent, quiet = Sent(), 0.0
        yield "retry: 2000\n\n"
        while self._ready():

            def work(call: Call) -> list[Part] | None:
                return sent.fresh(look(call, ask, sent.memory)) if _role(call) == role else None

            try:
                found = await self._door.desk.shows(self._door.who(ask), action, ask.path.get("project"), work)
            except UnknownError:
                yield _event("end", "signed-out")
                return
            except TilthError as error:
                yield _event("end", "gone" if problem.status(error) == 404 else "refused")
                return
            if found is None:
                yield _event("end", "role")
                return
            for part in found:
                yield _event("add" if part.adds else "part", f"{part.name}\n{part.html}")
            quiet = 0.0 if found else quiet + _TICK_S
            if quiet >= _IDLE_S:
                quiet = 0.0
                yield ": still here\n\n"
            await self._heard(_TICK_S)


class _Stream(StreamingResponse):
    """A response that tells when it is over, however that comes about."""

    def __init__(self, content: AsyncIterator[str], over: Callable[[], None]) -> None:
        super().__init__(content, headers=view.HEADERS | {"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        self._over = over

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


def _role(call: Call) -> Role:
    return (call.principal.role_in(call.project["id"]) if call.project else None, call.principal.rules)


def _event(name: str, data: str) -> str:
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\n{lines}\n"
