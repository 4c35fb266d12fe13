"""Makes so what is wanted of endpoints: asks `machine` what follows, does it, and keeps what it sees."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tilth.client.shapes.endpoint import UsagePoint
from tilth.control.clock import now_us
from tilth.control.failure import outage
from tilth.control.records import endpoints
from tilth.control.serving import callers
from tilth.control.serving.machine import (
    Action,
    Done,
    Down,
    Event,
    Failed,
    Load,
    Look,
    Removed,
    Round,
    Shelve,
    State,
    Unload,
    Unshelve,
    Up,
    Want,
    report,
    step,
)
from tilth.control.serving.server import LoadError, Place, Server
from tilth.control.serving.shelf import Shelf
from tilth.control.serving.usage import History, parsed
from tilth.control.store.database import Database
from tilth.control.store.tables import versions
from tilth.control.traffic import Shares
from tilth.core.digest import digest as digest_of
from tilth.core.errors import TilthError, UnavailableError
from tilth.ports.blob_store import BlobStore

_LOG = logging.getLogger("tilth.control")
_LOOK_S, _IDLE_S, _WANTED_S, _CALLERS_S = 1.0, 5.0, 5.0, 60.0
#: A server that dies at once is started again after this long, doubled each time.
_AGAIN_S, _MOST_AGAIN_S = 0.5, 30.0


class Reconciler:
    """Follows the rows of endpoints, and a server that serves them.

    `command` starts a `tilth` of this installation. `folder` is its own.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        folder: Path,
        command: Sequence[str],
        http: str,
        grpc: str,
        more: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._folder = folder
        models = folder / "models"
        for made in (folder, models):
            made.mkdir(mode=0o700, exist_ok=True)
        self._shelf = Shelf(models, blobs)
        self._tokens = folder / "tokens"
        self._secret = _secret(folder / "manage")
        self._server = Server(Place(folder, models, self._tokens, http, grpc, tuple(more)), command, self._secret)
        self._states: dict[str, State] = {}
        self._names: dict[str, str] = {}
        self._said: dict[str, Any] = {}
        self._history = History()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers_due = self._callers_again = self._round_due = 0.0
        self._callers_changed = True
        self._deaths, self._start_after = 0, 0.0
        self._why, self._up = "", False
        self._loop: asyncio.AbstractEventLoop
        #: Told when what is said of an endpoint is another.
        self.changed: Callable[[], None] = lambda: None

    # -- for others

    @property
    def serving(self) -> str:
        """Where endpoints answer, empty when no server runs."""
        return self._server.running.http if self._server.running else ""

    @property
    def serving_grpc(self) -> str:
        """Where endpoints answer over gRPC, empty when no server runs."""
        return self._server.running.grpc if self._server.running else ""

    def usage(self, name: str) -> list[UsagePoint]:
        """Return what an endpoint did in the last minutes, by the name that it is served as."""
        return self._history.of(name)

    def nudge(self) -> None:
        """Look at once: something wanted, or who may call, has changed. To be called in the event loop."""
        self._callers_changed = True
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.to_thread(self._recall)
        self._loop = asyncio.get_running_loop()
        if self._server.find():
            self._up = True
            self._tell_all(Up(anew=False))
        while True:
            self._wake.clear()
            try:
                await self._round()
            except Exception as error:
                words = outage(error)
                _LOG.warning("%s", words) if words else _LOG.exception("a round of the reconciler failed")
            busy = self._server.running is not None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_S if busy else _IDLE_S)

    async def close(self, *, stop_server: bool) -> None:
        """Stop working; end the server or leave it to whoever comes next."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if stop_server:
            await self._server.stop()
        await self._server.close()

    # -- a round

    async def _round(self) -> None:
        await self._follow_callers()
        await self._follow_rows()
        await self._follow_server()
        if self._server.running is not None:
            await self._look()
        await asyncio.to_thread(self._say)

    async def _follow_callers(self) -> None:
        # Also a while later by a clock that nobody sets back: another process may have revoked a token meanwhile.
        due = time.time() >= self._callers_due or time.monotonic() >= self._callers_again
        if not (due or self._callers_changed):
            return

        def write() -> float:
            with self._database.read() as connection:
                made, until = callers.lines(connection, now_us())
            own = f"sha256:{digest_of(self._secret.encode())} infer,manage,metrics control"
            callers.write(self._tokens, [own, *made])
            return until / 1e6 if until else float("inf")

        # Before it is read: what changes while the file is written is for the next round.
        self._callers_changed = False
        try:
            self._callers_due = await asyncio.to_thread(write)
        except BaseException:
            self._callers_changed = True
            raise
        self._callers_again = time.monotonic() + _CALLERS_S

    def _recall(self) -> None:
        """Begin where an earlier process stopped: what was last seen, and what lies on the shelf."""
        shelf = self._shelf.look()
        with self._database.read() as connection:
            rows = endpoints.all_of(connection)
        for row in rows:
            name = endpoints.served_as(row["project"], row["name"])
            self._names[row["id"]] = name
            state = State(shelf=shelf.pop(name, {}))
            if row["seen_endpoint_id"] is not None:
                applied = Shares(row["seen_traffic"], row["seen_shadow"])
                # What is not on the shelf cannot be what answers.
                if all(one in state.shelf for one in applied.versions):
                    number = row["seen_deployment"]
                    state = State(shelf=state.shelf, applied=applied, applied_number=number)
            self._states[row["id"]] = state
        for name, found in shelf.items():
            self._shelf.remove(name, list(found))

    async def _follow_rows(self) -> None:
        rows, wants = await asyncio.to_thread(self._rows)
        holders = {self._names[one]: one for one in self._states}
        for one, want in wants.items():
            name = endpoints.served_as(rows[one]["project"], rows[one]["name"])
            if holders.get(name, one) != one:
                # One of this name was removed and is still being taken down: the new one waits for its end.
                continue
            self._names[one] = name
            if one not in self._states:
                self._states[one] = State(up=self._up)
            self._event(one, want)
        for one in self._states.keys() - rows.keys():
            state = self._states[one]
            if not state.removed:
                self._event(one, Removed())
            elif state.phase == "idle" and not state.applied.versions:
                self._shelf.remove(self._names.pop(one), list(state.shelf))
                del self._states[one]
                self._said.pop(one, None)
        if time.monotonic() >= self._round_due:
            # What gave out is tried again once a second, however often something wakes this.
            self._round_due = time.monotonic() + _LOOK_S
            self._tell_all(Round())

    def _rows(self) -> tuple[dict[str, sa.RowMapping], dict[str, Want]]:
        with self._database.read() as connection:
            rows = {row["id"]: row for row in endpoints.all_of(connection)}
            known = {one: state.number for one, state in self._states.items()}
            wants = {
                one: self._want(connection, row) for one, row in rows.items() if known.get(one) != row["deployment"]
            }
        return rows, wants

    def _want(self, connection: sa.Connection, row: sa.RowMapping) -> Want:
        shares = Shares.of_json(row["wanted"])
        numbers = [int(one) for one in shares.versions]
        query = sa.select(versions.c.number, versions.c.digest)
        query = query.where(versions.c.model_id == row["model_id"], versions.c.number.in_(numbers))
        digests = {str(number): digest for number, digest in connection.execute(query)} if numbers else {}
        return Want(row["deployment"], shares, digests)

    async def _follow_server(self) -> None:
        if self._server.running is not None and not self._server.alive:
            self._server.running, self._up = None, False
            self._deaths += 1
            pause = min(_MOST_AGAIN_S, _AGAIN_S * 2 ** min(self._deaths - 1, 6)) if self._deaths > 1 else 0.0
            self._start_after = time.monotonic() + pause
            _LOG.error("the server of endpoints has ended; it is started again in %g s", pause)
            self._tell_all(Down())
        if self._server.running is None and any(one.needs_server for one in self._states.values()):
            if time.monotonic() >= self._start_after:
                await self._start()

    async def _start(self) -> None:
        policies = {self._names[one]: state.applied for one, state in self._states.items() if state.applied.versions}
        try:
            await self._server.start(policies)
        except UnavailableError as error:
            self._deaths += 1
            self._start_after = time.monotonic() + min(_MOST_AGAIN_S, _AGAIN_S * 2 ** min(self._deaths, 6))
            self._why = str(error)
            raise
        self._why, self._up = "", True
        self._tell_all(Up(anew=True))

    async def _look(self) -> None:
        try:
            seen = await self._server.look()
            self._history.add(now_us(), parsed(await self._server.metrics()))
        except (UnavailableError, LoadError) as error:
            _LOG.warning("%s", error)
            return
        self._deaths = 0
        for name in seen.keys() - {*self._names.values()}:
            # Its endpoint was removed, and whoever was to tell the server ended before that.
            if any(version.state == "ready" for version in seen[name].values()):
                await self._server.unload(name)
        for one, name in self._names.items():
            if one in self._states:
                self._event(one, Look(seen.get(name, {})))

    def _say(self) -> None:
        """Keep what is said of endpoints where it is another."""
        told = {one: asdict(report(state)) for one, state in self._states.items() if not state.removed}
        if self._why:
            for one in told:
                told[one] |= {"message": self._why[:2000]} if told[one]["state"] == "stopped" else {}
        fresh = {one: said for one, said in told.items() if self._said.get(one) != said}
        if not fresh:
            return
        with self._database.write() as connection:
            for one, said in fresh.items():
                endpoints.see(connection, one, said, now_us())
        self._said |= fresh
        self.changed()

    # -- deciding and doing

    def _tell_all(self, event: Event) -> None:
        for one in list(self._states):
            self._event(one, event)

    def _event(self, one: str, event: Event) -> None:
        self._states[one], actions = step(self._states[one], event)
        for action in actions:
            self._begin(one, action)

    def _begin(self, one: str, action: Action) -> None:
        if isinstance(action, Unshelve):
            self._shelf.remove(self._names[one], list(action.versions))
            return
        task = self._loop.create_task(self._done(one, action))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _done(self, one: str, action: Action) -> None:
        name = self._names[one]
        event: Event = Done()
        try:
            match action:
                case Shelve(version, digest):
                    await asyncio.to_thread(self._shelf.put, name, version, digest)
                case Load(shares):
                    await self._server.load(name, shares)
                case Unload():
                    await self._server.unload(name)
        except UnavailableError as error:
            event = Failed(str(error), again=True)
        except (TilthError, LoadError) as error:
            event = Failed(str(error))
        except Exception as error:
            _LOG.exception("an action of the reconciler failed")
            event = Failed(f"{type(error).__name__}: {error}"[:500])
        if one in self._states:
            self._event(one, event)
        self._wake.set()


def _secret(path: Path) -> str:
    """Return what manages the server, made once: whoever comes after this process can go on with its server."""
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_urlsafe(32), encoding="ascii")
    return path.read_text(encoding="ascii")
