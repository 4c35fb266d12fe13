"""A control plane for tests of the console: answered in this process, or as a real `tilth up` on free ports."""

import asyncio
import contextlib
import html
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa

from tilth import wiring
from tilth.bridge.bundle_write import encode_value, sizes_of
from tilth.bridge.interface import read_signature
from tilth.bridge.manifest import encode_manifest
from tilth.bridge.skeleton import split
from tilth.control.api.app import guarded
from tilth.control.home import Home
from tilth.control.plane import ControlPlane, Settings
from tilth.core.address import Address
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.bundle import SCHEMA, Case, Choice, Golden, Manifest, Refused, Source
from tilth.core.certificate import Agreement, Certificate, Placement, Task, Timing
from tilth.core.digest import digest
from tilth.core.host import HostRule
from tilth.testing.models import affine

#: How long anything may take on a busy machine before a test gives up on it.
PATIENCE_S = 60.0
BASE = "http://127.0.0.1:8750"
_CSRF = re.compile(r'name="_csrf" value="([0-9a-f]+)"')


# -- a bundle


def bundle(scale: float = 1.0, name: str = "affine", *, reason: str = "1.40 x the winner") -> dict[str, bytes]:
    """Return a bundle of `y = x @ w + b` as blobs by digest, the manifest under `""`; two builds, one refused.

    The build that wins runs on the reference engine of this machine. `reason` is why the other one lost.
    """
    small, device = affine(scale=scale), wiring.this_device()
    parts = split(small.model, None)
    blobs: dict[str, bytes] = {one: bytes(data) for one, data in parts.blobs.items()}  # type: ignore[arg-type]
    values: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for made, arrays in zip(values, (small.inputs(2), small.expected(2)), strict=True):
        for one, array in arrays.items():
            made[one], more = encode_value(np.asarray(array))
            blobs |= {key: bytes(data) for key, data in more.items()}  # type: ignore[arg-type]
    builds = [
        Build(parts.graph.digest, device.target, "reference", precision, variant=parts.graph.digest)
        for precision in (Precision.FP32, Precision.BF16)
    ]
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        created_at="2026-11-24T00:00:00Z",
        source=Source("onnx", "1"),
        graphs=(parts.graph,),
        signature=read_signature(small.model, batched=False),
        golden=Golden("given", (Case(*values),)),
        blobs=sizes_of(blobs),
        builds=tuple(builds),
        certificates=tuple(_certificate(one, number, device) for number, one in enumerate(builds)),
        refused=(Refused("ort int8", (Refusal(Verdict.NEVER, "no `<operator>` to quantise"),), device.target),),
        choices=(Choice(device.target, "latency", builds[0].id, 1, {builds[1].id: reason}),),
    )
    data = encode_manifest(manifest)
    return blobs | {digest(data): data, "": data}


def _certificate(build: Build, number: int, device: Any) -> Certificate:
    return Certificate(
        build=build.id,
        device=device,
        agreement=Agreement(1e-7 + number, 1e-7 + number / 100, 1e-7, 1.0, 1.0, 1.0, 2),
        agrees=True,
        tolerance="fp32: relative error <= 0.0001",
        timings=tuple(Timing(batch, 0.1 * batch + number, 0.2, 0.3, 1e4, 10, 0) for batch in (1, 8)),
        placement=Placement("numpy", {"numpy": 2, "elsewhere": number}, number / 3, "test", {"matmul": 1, "add": 1}),
        peak_memory_bytes=1 << 20,
        load_memory_bytes=1 << 20,
        load_ms=1,
        versions={"numpy": "2"},
        inputs_digest="00",
        measured_at="2026-11-24T00:00:00Z",
        task=Task("accuracy", 0.97, 0.97, 10),
    )


# -- who asks


@dataclass
class Browser:
    """What a browser does without scripts: keeps cookies, loads pages, and sends the forms that are on them."""

    client: httpx.Client
    page: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Load a page."""
        found = self.client.get(path, **more)
        if found.headers.get("content-type", "").startswith("text/html"):
            self.page = found.text
        return found

    def post(self, path: str, told: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
        """Send a form with what the last page has for it: its mark, and the origin."""
        found = _CSRF.search(self.page)
        data = {"_csrf": found[1] if found else ""} | (told or {})
        headers = {"Origin": str(self.client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        sent = self.client.post(path, data=data, headers=headers | dict(more.pop("headers", {})), **more)
        if sent.status_code == 303:
            self.get(sent.headers["location"], follow_redirects=True)
        elif sent.headers.get("content-type", "").startswith("text/html"):
            self.page = sent.text
        return sent

    def sign_in(self, token: str) -> "Browser":
        """Sign in, and begin at the console."""
        found = self.post("/console/sign-in", {"token": token})
        assert found.status_code == 303, found.text
        self.get("/console", follow_redirects=True)
        return self

    @property
    def text(self) -> str:
        """The page as it reads, without its marks."""
        return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", self.page).split()))


class Api:
    """The API with a token."""

    def __init__(self, client: httpx.Client, token: str) -> None:
        self.client, self.token = client, token

    def __call__(self, method: str, path: str, told: Any = None, *, status: int | None = None) -> Any:
        """Ask, and return what was answered."""
        headers = {"Authorization": f"Bearer {self.token}"}
        found = self.client.request(method, path, json=told, headers=headers)
        assert found.status_code == status if status else found.is_success, found.text
        return found.json() if found.content else None

    def push(self, model: str, blobs: dict[str, bytes], project: str = "default", **more: Any) -> Any:
        """Register a bundle as the next version of a model."""
        headers = {"Authorization": f"Bearer {self.token}"}
        for one in (one for one in blobs if one):
            path = f"/v1/projects/{project}/blobs/{one}"
            assert self.client.put(path, content=blobs[one], headers=headers).is_success
        order = {"digest": digest(blobs[""])} | more
        return self("POST", f"/v1/projects/{project}/models/{model}/versions", order)

    def user(self, name: str, **roles: str) -> str:
        """Make a user with roles by project, and return the secret of a token of it."""
        self("POST", "/v1/users", {"name": name})
        for project, role in roles.items():
            self("PUT", f"/v1/projects/{project}/members/{name}", {"role": role})
        return str(self("POST", "/v1/tokens", {"name": name, "user": name})["secret"])


@dataclass
class Console:
    """A control plane: its API as the administrator, and browsers that come to it."""

    base: str
    token: str
    transport: httpx.BaseTransport | None = None
    plane: ControlPlane | None = None
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, base: str = "") -> httpx.Client:
        """Return a client with cookies of its own."""
        made = httpx.Client(base_url=base or self.base, transport=self.transport, timeout=PATIENCE_S)
        self.clients.append(made)
        return made

    def close(self) -> None:
        """Close every client."""
        for one in self.clients:
            one.close()

    @property
    def api(self) -> Api:
        """The API as the administrator."""
        return Api(self.client(), self.token)

    def browser(self, token: str | None = None, base: str = "") -> Browser:
        """Return a browser that has signed in: with the administrator's token unless another is given."""
        return Browser(self.client(base)).sign_in(self.token if token is None else token)

    def guest(self, base: str = "") -> Browser:
        """Return a browser that has not."""
        return Browser(self.client(base))


class InProcess(httpx.BaseTransport):
    """Asks an ASGI application in an event loop of its own; `https` in an address makes it a request over TLS."""

    def __init__(self, app: Any) -> None:
        self._app = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._loop = asyncio.new_event_loop()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, its body read whole."""

        async def answered() -> httpx.Response:
            found = await self._app.handle_async_request(request)
            body = b"".join([part async for part in found.stream])  # type: ignore[union-attr]
            return httpx.Response(found.status_code, headers=found.headers, content=body)

        return self._loop.run_until_complete(answered())

    def run(self, work: Any) -> Any:
        """Run a coroutine in the same loop."""
        return self._loop.run_until_complete(work)

    def close_loop(self) -> None:
        """End the loop."""
        self._loop.close()


@contextlib.contextmanager
def in_process(folder: Path) -> Iterator[Console]:
    """Yield a control plane that answers in this process, without a server of endpoints."""
    home = Home(folder)
    with home.held():
        settings = Settings(
            home=home,
            store=f"sqlite:///{home.store}",
            serve_http="127.0.0.1:0",
            serve_grpc="127.0.0.1:0",
            node="test-node",
            inspect=wiring.worker_command("inspect"),
            tilth=(sys.executable, "-m", "tilth"),
        )
        plane = ControlPlane(settings, wiring.blob_store(str(home.blobs)))
        token = plane.first_token()
        assert token is not None
        plane._know_this_node()
        plane.ready = True
        transport = InProcess(guarded(plane.desk.app, HostRule([Address("127.0.0.1", 8750)])))
        try:
            yield Console(BASE, token, transport, plane)
        finally:
            plane.inspection.close()
            plane.database.close()
            transport.close_loop()


@contextlib.contextmanager
def up(folder: Path) -> Iterator[Console]:
    """Yield a real `tilth up` on free ports."""
    command = [sys.executable, "-m", "tilth", "up", "--home", str(folder / "home"), "--port", "0", "--json"]
    for option in ("--serve-http", "--serve-grpc"):
        command += [option, "127.0.0.1:0"]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            made = Console(told["address"], told["token"])
            with contextlib.closing(made):
                yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def wait_for(what: Any, seconds: float = PATIENCE_S) -> Any:
    """Return the first value of `what()` that is something."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)
    return found


def audit_rows(console: Console) -> list[str]:
    """Return the actions in the audit log, in order."""
    assert console.plane is not None
    with console.plane.database.read() as connection:
        return list(connection.execute(sa.text("SELECT action FROM events ORDER BY seq")).scalars())
