"""Events: listed, followed as they happen, exported and checked."""

import time
from collections.abc import Iterator

import httpx
from pydantic import ValidationError

from tilth.client.answer import check, check_plain
from tilth.client.errors import AwayError
from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.patience import Patience
from tilth.client.shapes.event import Chain, Event
from tilth.client.shapes.shape import Listing
from tilth.client.wire import path_of
from tilth.core.errors import UnavailableError

#: The server says something at least every 15 s.
_SILENT_S = 40.0
_AGAIN_S = 0.25
_MOST_LINE_BYTES = 4 << 20


class Events(Noun):
    """What happened in the project, or with `everywhere` in the whole installation, which administrators may see.

    `after` is the `seq` of the last event that you have. Every method raises TilthError as the control plane says.
    """

    def list(self, *, after: int = 0, newest: bool = False, everywhere: bool = False) -> Iterator[Event]:
        """Yield events, oldest first; or newest first, those before `after`."""
        asked = {"after": after, "newest": newest}
        return pages(self.wire, Listing[Event], self._path(everywhere), asked, cursor="after")

    def follow(self, *, after: int = 0, everywhere: bool = False, patience_s: float = 60.0) -> Iterator[Event]:
        """Yield events as they happen, from the one behind `after` on, each once and in order, without end.

        A connection that breaks is made again, for `patience_s` without an answer.

        Raises:
            AwayError: nobody answered for too long.
            UnknownError: the token was revoked, or has expired.
        """
        last, patience = after, Patience(0.0)
        while True:
            try:
                for event in self._stream(last, everywhere):
                    # Whoever was connected once is waited for.
                    patience = Patience(patience_s)
                    if event is not None and event.seq > last:
                        last = event.seq
                        yield event
            except AwayError as error:
                time.sleep(patience.pause_s(error))
            else:
                # It ends a stream in order when whoever follows may not any more; the next request says so.
                time.sleep(_AGAIN_S)

    def check(self) -> Chain:
        """Return whether the audit log is what was written."""
        return self.wire.get(Chain, path_of("events", "check"))

    def export(self, *, after: int = 0) -> Iterator[Event]:
        """Yield all events of the installation in one answer, for administrators.

        Raises:
            AwayError: the answer ended too early.
        """
        with self.wire.opened("GET", path_of("events", "export"), {}, query={"after": after}) as answer:
            check(answer)
            for line in _lines(answer):
                if line:
                    yield _event(line)

    def _path(self, everywhere: bool, *names: str) -> str:
        return path_of("events", *names) if everywhere else self._in("events", *names)

    def _stream(self, after: int, everywhere: bool) -> Iterator[Event | None]:
        """Yield what comes over one connection; None for a sign of life."""
        path, headers = self._path(everywhere, "stream"), {"Accept": "text/event-stream"}
        with self.wire.opened("GET", path, headers, query={"after": after}, limit_s=_SILENT_S) as answer:
            check(answer)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise UnavailableError(
                    f"`{self.wire.origin}` does not answer as a control plane does",
                    why="it sends no stream of events",
                    hint="check the address; is something else in between?",
                )
            yield None
            data = b""
            for line in _lines(answer):
                if line.startswith(b"data:"):
                    data = line[5:].strip()
                elif not line and data:
                    yield _event(data)
                    data = b""
                elif line.startswith(b":"):
                    yield None


def _lines(answer: httpx.Response) -> Iterator[bytes]:
    check_plain(answer)
    held = b""
    for block in answer.iter_raw():
        *lines, held = (held + block).split(b"\n")
        if len(held) > _MOST_LINE_BYTES:
            raise UnavailableError("an event does not end", why=f"its line has more than {_MOST_LINE_BYTES} bytes")
        yield from lines


def _event(line: bytes) -> Event:
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        raise UnavailableError("an event is not understood", why=ascii(line[:80])) from None
