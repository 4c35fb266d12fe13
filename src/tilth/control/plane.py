"""A control plane, put together: store, blobs, API, console, reconciler, and what it does by itself."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from tilth.client.shapes.node import NewDevice, NewNode, NodeChange
from tilth.client.shapes.who import NewToken
from tilth.control.access import Principal
from tilth.control.api import app as application
from tilth.control.api.desk import Desk
from tilth.control.api.routes import blobs as blob_routes
from tilth.control.api.routes import endpoints as endpoint_routes
from tilth.control.api.routes import events as event_routes
from tilth.control.api.routes import models as model_routes
from tilth.control.api.routes import nodes as node_routes
from tilth.control.api.routes import who as who_routes
from tilth.control.change import Change
from tilth.control.clock import now_us
from tilth.control.console import app as console
from tilth.control.console import view
from tilth.control.console.figures import Figures
from tilth.control.console.sources import Sources
from tilth.control.failure import outage
from tilth.control.home import Home
from tilth.control.intake.inspection import Inspection
from tilth.control.intake.receive import Landing
from tilth.control.oidc import Config, Oidc
from tilth.control.records import blobs as blob_records
from tilth.control.records import nodes, projects, repeats, tokens, users
from tilth.control.serving.shell import Reconciler
from tilth.control.store.database import Database
from tilth.control.store.tables import nodes as node_table
from tilth.control.store.tables import sessions
from tilth.control.store.tables import users as user_table
from tilth.control.tracking.door import Door
from tilth.control.tracking.server import Order, TrackingServer
from tilth.core.device import Device
from tilth.core.errors import TilthError
from tilth.ports.blob_store import BlobStore

_LOG = logging.getLogger("tilth.control")
#: Where a browser is sent that opens a page of the tracking server and is not signed in.
_SIGN_IN = "/console/sign-in"
_SWEEP_S, _BEAT_S = 600.0, 10.0
#: Kinds of things whose changes move endpoints, or who may call them.
_MOVES = {"endpoint", "token", "member", "user", "project"}
_SYSTEM = Principal("system", "system", is_admin=True)


@dataclass(frozen=True)
class Settings:
    """How a control plane is started.

    `store` is the address of a database, `serve_http` and `serve_grpc` where endpoints are to answer. `node` names this
    machine. `inspect` and `tilth` are commands of this installation: a child that opens graphs, and the command line.
    `tracking` is a tracking server to be kept beside it, and `provider` an identity provider that people sign in
    through; None for none.
    """

    home: Home
    store: str
    serve_http: str
    serve_grpc: str
    node: str
    inspect: Sequence[str]
    tilth: Sequence[str]
    serve_more: Sequence[str] = ()
    devices: Sequence[Device] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tracking: Order | None = None
    provider: Config | None = None


class ControlPlane:
    """Everything of a control plane but its port. The caller holds the home.

    Raises:
        UnavailableError: the store cannot be opened.
    """

    def __init__(self, settings: Settings, blobs: BlobStore) -> None:
        self.settings, self.blobs = settings, blobs
        self.database = Database(settings.store)
        self.landing = Landing(settings.home.uploads)
        self.inspection = Inspection(blobs, settings.inspect, settings.home.uploads)
        self.reconciler = Reconciler(
            self.database,
            blobs,
            settings.home.folder / "serving",
            settings.tilth,
            settings.serve_http,
            settings.serve_grpc,
            settings.serve_more,
        )
        self.bell = event_routes.Bell()
        self.desk = Desk(self.database)
        self.oidc = Oidc(settings.provider) if settings.provider is not None else None
        self.tracking: TrackingServer | None = None
        self.ready = False
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._declare()

    def _declare(self) -> None:
        desk = self.desk
        who_routes.declare(desk, self._serving)
        model_routes.declare(desk, self.blobs, self.inspection)
        blob_routes.declare(desk, self.blobs, self.landing)
        endpoint_routes.declare(desk, self.reconciler.usage)
        node_routes.declare(desk)
        event_routes.declare(desk, self.bell)
        sources = Sources(self.reconciler.usage, self._serving, Figures(self.blobs))
        self.console = console.declare(desk, sources, self.bell.heard, lambda: self.ready, oidc=self.oidc)
        application.finish(desk, lambda: self.ready)
        desk.listeners.append(self._heard)
        if self.settings.tracking is not None:
            self.tracking = TrackingServer(self.settings.tracking, self.settings.home.folder / "tracking")
            self._tracking_door = Door(desk, self.tracking, _SIGN_IN)
            self._tracking_door.declare()

    def _serving(self) -> str:
        scheme = "https" if "--tls-cert" in self.settings.serve_more else "http"
        return f"{scheme}://{self.reconciler.serving}" if self.reconciler.serving else ""

    def _heard(self, change: Change) -> None:
        if not change.events or self._loop is None:
            return
        kinds = {event.action.partition(".")[0] for event in change.events}
        if kinds & _MOVES:
            self._loop.call_soon_threadsafe(self.reconciler.nudge)
        self.bell.ring()

    def first_token(self) -> str | None:
        """Return the secret of an administrator's token when this is the first start, None later.

        It is made in one transaction with the administrator: a start that was cut off begins anew.
        """
        with self.database.write() as connection:
            if connection.execute(sa.select(user_table.c.id).limit(1)).first():
                return None
            users.make(Change(connection, _SYSTEM), "admin", is_admin=True)
            row = users.found(connection, "admin")
            admin = Principal(row["id"], row["name"], is_admin=True)
            change = Change(connection, admin)
            projects.make(change, "default", "the first project")
            return tokens.make(change, NewToken(name="first start")).secret

    def new_admin_token(self, name: str) -> str:
        """Return the secret of a new token of the first administrator, for who has lost all of them.

        Whoever can call this has the home, and could write to the store.
        """
        with self.database.write() as connection:
            query = sa.select(user_table).where(user_table.c.is_admin, ~user_table.c.disabled)
            row = connection.execute(query.order_by(user_table.c.created_us).limit(1)).mappings().one()
            change = Change(connection, Principal(row["id"], row["name"], is_admin=True))
            return tokens.make(change, NewToken(name=name)).secret

    async def start(self) -> None:
        """Begin what it does by itself."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._know_this_node)
        for work in (self.reconciler.run(), self._every(_SWEEP_S, self._sweep), self._every(_BEAT_S, self._beat)):
            self._tasks.append(self._loop.create_task(work))
        self._tasks.append(self._loop.create_task(self._rest()))
        if self.tracking is not None:
            for work in (self.tracking.run(), self._tracking_door.ledger.run()):
                self._tasks.append(self._loop.create_task(work))
        self.ready = True
        # It takes a moment, and the first page should not wait for all of it.
        self._tasks.append(self._loop.create_task(asyncio.to_thread(view.warm)))

    async def stop(self, *, stop_server: bool = True) -> None:
        """End it; with the server of endpoints, or without."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.tracking is not None:
            await self._tracking_door.ledger.tell()
            await self.tracking.close()
        if self.oidc is not None:
            await self.oidc.close()
        await self.reconciler.close(stop_server=stop_server)
        await asyncio.to_thread(self.inspection.close)
        await asyncio.to_thread(self.database.close)

    # -- this machine

    def _know_this_node(self) -> None:
        settings = self.settings
        found = [NewDevice(name=one.id, target=one.target, facts=_facts(one)) for one in settings.devices]
        with self.database.write() as connection:
            change = Change(connection, _SYSTEM)
            row = connection.execute(sa.select(node_table).where(node_table.c.name == settings.node)).first()
            if row is None:
                nodes.make(change, NewNode(name=settings.node, labels=dict(settings.labels), devices=found))
            elif nodes.devices_differ(connection, settings.node, found):
                nodes.alter(change, settings.node, NodeChange(devices=found), None)
        self._beat()

    def _beat(self) -> None:
        facts: dict[str, Any] = {"grpc": self.reconciler.serving_grpc}
        if self.tracking is not None:
            facts |= {"tracking": self.tracking.why or "ready", "tracking_memory_bytes": self.tracking.memory_bytes}
        with self.database.write() as connection:
            nodes.seen(connection, self.settings.node, now_us(), self.reconciler.serving, facts)

    # -- keeping order

    def _sweep(self) -> None:
        """Forget what nobody needs: old uploads, blobs of no version, answers, sessions."""
        before = now_us() - blob_records.UNUSED_US
        with self.database.write() as connection:
            repeats.sweep(connection, now_us())
            connection.execute(sessions.delete().where(sessions.c.expires_us < now_us()))
            for upload in blob_records.old_uploads(connection, before):
                self.landing.remove(upload)
        while True:
            with self.database.write() as connection:
                gone = blob_records.forget_unused(connection, before)
            for digest in gone:
                # In a transaction that keeps others from noting the blob: it is looked for and dropped in one step.
                with self.database.write() as connection:
                    if not blob_records.is_kept(connection, digest):
                        self.blobs.drop(digest)
            if not gone:
                break
        with self.database.read() as connection:
            known = blob_records.upload_ids(connection)
        self.landing.sweep(known, 3600, time.time())

    async def _every(self, pause_s: float, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await asyncio.to_thread(work)
            except Exception as error:
                words = outage(error)
                _LOG.warning("%s", words) if words else _LOG.exception("what is done by itself failed")

    async def _rest(self) -> None:
        while True:
            await asyncio.sleep(30)
            with contextlib.suppress(TilthError):
                await self.inspection.rest()


def _facts(device: Device) -> dict[str, str | int | float | bool]:
    made: dict[str, str | int | float | bool] = {"name": device.name, "cores": device.cores}
    made |= {"memory_bytes": device.memory_bytes, "isa": " ".join(device.isa), "driver": device.driver}
    return {name: value for name, value in made.items() if value not in ("", 0)}
