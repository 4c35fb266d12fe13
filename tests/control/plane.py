"""A control plane for tests, in this process or as a real `tilth up`, with bundles that are made in memory.

`Local` answers requests without a port. `Up` is a process with a port, and a server of endpoints once something is
deployed. `World` fills either with people of every role and two projects that hold the same kinds of things.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tilth import wiring
from tilth.bridge.bundle_write import encode_value, sizes_of, write_bundle
from tilth.bridge.interface import read_signature
from tilth.bridge.manifest import decode_manifest, encode_manifest
from tilth.bridge.skeleton import split
from tilth.control.api.app import guarded
from tilth.control.home import Home
from tilth.control.plane import ControlPlane, Settings
from tilth.core.address import Address
from tilth.core.blob import FileRange
from tilth.core.build import Build, Precision
from tilth.core.bundle import SCHEMA, Case, Choice, Golden, Manifest, Source
from tilth.core.certificate import Agreement, Certificate, Placement, Timing
from tilth.core.digest import digest
from tilth.core.host import HostRule
from tilth.testing.models import SmallModel, affine

ROW = [1.0, 2.0, 3.0, 4.0]
#: How long anything may take on a busy machine before a test gives up on it.
PATIENCE_S = 40.0


# -- bundles


@dataclass(frozen=True)
class Sample:
    """A bundle in memory: its digest, and its blobs by digest, the manifest among them."""

    digest: str
    blobs: Mapping[str, bytes]

    @property
    def manifest(self) -> bytes:
        """The manifest's bytes."""
        return self.blobs[self.digest]

    @property
    def graph(self) -> str:
        """The digest of its graph."""
        found: str = json.loads(self.manifest)["graphs"][0]["digest"]
        return found

    def altered(self, data: bytes, **more: bytes) -> "Sample":
        """Return a bundle with other bytes as manifest, and the same blobs."""
        rest = {name: blob for name, blob in self.blobs.items() if name != self.digest}
        return Sample(digest(data), rest | {digest(data): data} | more)


@cache
def sample(scale: float = 1.0, *, engine: str = "ort", wrong: bool = False, elsewhere: bool = False) -> Sample:
    """Return a bundle of `y = x @ w + b`, certified by hand for this machine.

    With `elsewhere` its build is for another device, so that one is certified where it is served; with `wrong` that
    fails, because its golden set holds other answers.
    """
    return packed(affine(scale=scale), engine, wrong, elsewhere)


def packed(small: SmallModel, engine: str = "ort", wrong: bool = False, elsewhere: bool = False) -> Sample:
    """Return a small model as a bundle."""
    model, device = small.model, wiring.this_device()
    parts = split(model, None)
    blobs: dict[str, bytes] = {name: bytes(data) for name, data in parts.blobs.items()}  # type: ignore[arg-type]
    answers = {name: value + 1 if wrong else value for name, value in small.expected(2).items()}
    inputs, outputs = {}, {}
    for made, values in ((inputs, small.inputs(2)), (outputs, answers)):
        for name, value in values.items():
            made[name], more = encode_value(value)
            blobs |= {one: bytes(data) for one, data in more.items()}  # type: ignore[arg-type]
    build = Build(parts.graph.digest, device.target, engine, Precision.FP32, variant=parts.graph.digest)
    if elsewhere or wrong:
        device = replace(device, name="a chip that is somewhere else")
    certificate = Certificate(
        build=build.id,
        device=device,
        agreement=Agreement(0, 0, 0, 1, 1, 1, 2),
        agrees=True,
        tolerance="",
        timings=(Timing(1, 0.1, 0.1, 0.1, 1e4, 10, 0),),
        placement=Placement("numpy", {"numpy": 2}, 0.0, "test"),
        peak_memory_bytes=1 << 20,
        load_memory_bytes=1 << 20,
        load_ms=1,
        versions={engine: wiring.engine(engine).version()},
        inputs_digest="",
        measured_at="2026-11-24T00:00:00Z",
    )
    manifest = Manifest(
        schema=SCHEMA,
        name=small.name,
        created_at="2026-11-24T00:00:00Z",
        source=Source("onnx", "1"),
        graphs=(parts.graph,),
        signature=read_signature(small.model, batched=False),
        golden=Golden("given", (Case(inputs, outputs),)),
        blobs=sizes_of(blobs),
        builds=(build,),
        certificates=(certificate,),
        choices=(Choice(device.target, "latency", build.id, 1, {}),),
    )
    data = encode_manifest(manifest)
    return Sample(digest(data), blobs | {digest(data): data})


def expected(scale: float = 1.0) -> list[float]:
    """Return what the sample of a scale answers to `ROW`."""
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(affine(scale=scale).model).run(None, {"x": np.array([ROW], np.float32)})
    answer: list[float] = found[0].tolist()
    return answer


def written(found: Sample, path: Path) -> Path:
    """Write a sample as a bundle's file, and its blobs beside it."""
    folder = path.with_suffix(".blobs")
    folder.mkdir()
    sources = {}
    for name, data in found.blobs.items():
        (folder / name).write_bytes(data)
        if name != found.digest:
            sources[name] = FileRange(folder / name, 0, len(data))
    write_bundle(path, decode_manifest(found.manifest), sources)
    return path


# -- asking


class Asks:
    """Who asks a control plane over HTTP. `secret` is the token of those who name none."""

    secret: str

    def ask(self, method: str, path: str, told: Any = None, *, who: str | None = None, **more: Any) -> httpx.Response:
        """Send a request with a token, `""` for none; `told` becomes a JSON body."""
        headers = dict(more.pop("headers", {}))
        token = self.secret if who is None else who
        if token:
            headers.setdefault("Authorization", f"Bearer {token}")
        if told is not None:
            more["json"] = told
        return self._sent(method, path, headers, **more)

    def _sent(self, method: str, path: str, headers: dict[str, str], **more: Any) -> httpx.Response:
        raise NotImplementedError

    def get(self, path: str, **more: Any) -> Any:
        """Return what a GET answers, which is well."""
        found = self.ask("GET", path, **more)
        assert found.status_code == 200, found.text
        return found.json()

    def made(self, method: str, path: str, told: Any = None, **more: Any) -> Any:
        """Return what a change answers, which is well."""
        found = self.ask(method, path, told, **more)
        assert found.status_code in (200, 201, 204), f"{method} {path}: {found.status_code} {found.text}"
        return found.json() if found.content else None

    def upload(self, project: str, found: Sample, **more: Any) -> None:
        """Upload a bundle's blobs."""
        for name, data in found.blobs.items():
            self.made("PUT", f"/v1/projects/{project}/blobs/{name}", content=data, **more)

    def push(self, project: str, model: str, found: Sample, **more: Any) -> Any:
        """Upload a bundle and register it as a version."""
        self.upload(project, found)
        return self.made("POST", f"/v1/projects/{project}/models/{model}/versions", {"digest": found.digest, **more})

    def events(self) -> int:
        """Return how many events there are."""
        found: int = self.get("/v1/events/check")["events"]
        return found


class Local(Asks):
    """A control plane in this process, without a port and without a reconciler at work."""

    def __init__(self, folder: Path, store: str = "") -> None:
        home = Home(folder)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(home.held())
        settings = Settings(
            home=home,
            store=store or f"sqlite:///{home.store}",
            serve_http="127.0.0.1:0",
            serve_grpc="127.0.0.1:0",
            node="here",
            inspect=wiring.worker_command("inspect"),
            tilth=(sys.executable, "-m", "tilth"),
        )
        self.blobs = wiring.blob_store(str(home.blobs))
        self.plane = ControlPlane(settings, self.blobs)
        self.home, self.database = home, self.plane.database
        self.secret = self.plane.first_token() or ""
        self.app = guarded(self.plane.desk.app, HostRule([Address("127.0.0.1", 80)]))
        self.runner = asyncio.Runner()
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app),  # type: ignore[arg-type]
            base_url="http://127.0.0.1",
            timeout=PATIENCE_S,
        )

    def _sent(self, method: str, path: str, headers: dict[str, str], **more: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, path, headers=headers, **more))

    def at_once(self, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
        """Send requests at the same time."""

        async def all_of() -> list[httpx.Response]:
            headers = {"Authorization": f"Bearer {self.secret}"}
            asked = [self.client.request(method, path, json=told, headers=headers) for method, path, told in requests]
            return list(await asyncio.gather(*asked))

        return self.runner.run(all_of())

    def close(self) -> None:
        """End it."""
        self.runner.run(self.client.aclose())
        self.runner.run(self.plane.stop())
        self.runner.close()
        self._stack.close()


class Up(Asks):
    """A real `tilth up`; a context manager that ends it and its server of endpoints."""

    def __init__(self, folder: Path, *arguments: str, secret: str = "") -> None:
        self.folder, self._log = folder, folder.with_name(f"{folder.name}.log")
        command = [sys.executable, "-m", "tilth", "up", "--home", str(folder), "--port", "0", "--json"]
        command += ["--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0", *arguments]
        with self._log.open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(b'{"address"'):
            self.process.wait(PATIENCE_S)
            self.process.stdout.close()
            raise RuntimeError(f"no control plane: {line!r}{self.log()}")
        told = json.loads(line)
        self.address, self.pid = told["address"], told["pid"]
        self.port = int(self.address.rpartition(":")[2])
        self.secret = told["token"] or secret
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE_S, trust_env=False)

    def _sent(self, method: str, path: str, headers: dict[str, str], **more: Any) -> httpx.Response:
        return self.client.request(method, path, headers=headers, **more)

    def log(self) -> str:
        """Return what it has said on standard error."""
        return self._log.read_text(encoding="utf-8")

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its exit code; with SIGKILL its server of endpoints stays."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(PATIENCE_S)
            if self.process.stdout is not None:
                self.process.stdout.close()
            if number != signal.SIGKILL:
                self.end_server()

    def server(self) -> dict[str, Any]:
        """Return pid and addresses of its server of endpoints, empty when there is none."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "serving/server.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def end_server(self) -> None:
        """End a server that an unclean end left."""
        if found := self.server():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(found["pid"], signal.SIGKILL)


def until(holds: Callable[[], Any], what: Callable[[], Any] = lambda: "", seconds: float = PATIENCE_S) -> Any:
    """Ask until something holds, and return it."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(httpx.TransportError):
            if found := holds():
                return found
        time.sleep(0.02)
    raise AssertionError(f"it did not come to pass in {seconds:g} s: {what()}")


# -- a world


@dataclass
class World:
    """Projects `one` and `two` with the same kinds of things in each, and people by name with a token each.

    `viewer`, `developer`, `operator` and `owner` are in project one, `neighbour` is the admin of project two,
    `stranger` is in none, and `admin` administers all.
    """

    asks: Any
    people: dict[str, str] = field(default_factory=dict)
    ids: dict[str, dict[str, str]] = field(default_factory=dict)

    def user(self, name: str, **projects: str) -> str:
        """Make a user with roles in projects, and return its token."""
        self.asks.made("POST", "/v1/users", {"name": name})
        for project, role in projects.items():
            self.asks.made("PUT", f"/v1/projects/{project}/members/{name}", {"role": role})
        self.people[name] = self.token(user=name, name=name)
        return self.people[name]

    def token(self, who: str | None = None, **order: Any) -> str:
        """Make a token and return its secret."""
        made: str = self.asks.made("POST", "/v1/tokens", {"name": "t", **order}, who=who)["secret"]
        return made

    def project(self, name: str, found: Sample) -> None:
        """Make a project with one thing of every kind in it."""
        asks, base = self.asks, f"/v1/projects/{name}"
        asks.made("POST", "/v1/projects", {"name": name})
        asks.made("POST", f"{base}/models", {"name": "m", "approve": ["production"]})
        version = asks.push(name, "m", found, aliases=["champion"])
        asked = asks.made("POST", f"{base}/models/m/versions/1/stage", {"stage": "production"})
        asks.made("POST", f"{base}/endpoints", {"name": "e", "model": "m"})
        asks.made("POST", f"{base}/endpoints/e/deploy", {"version": "1"})
        upload = asks.made("POST", f"{base}/uploads", {"digest": digest(name.encode()), "size_bytes": 99})
        asks.made("POST", "/v1/nodes", {"name": f"{name}-node", "project": name, "devices": [
            {"name": "cpu0", "target": "cpu-x86_64", "facts": {"cores": 2}}]})  # fmt: skip
        builds = asks.get(f"{base}/models/m/versions/1/builds")["items"]
        self.ids[name] = {
            "project": name,
            "model": "m",
            "version": "1",
            "alias": "champion",
            "endpoint": "e",
            "node": f"{name}-node",
            "approval": asked["id"],
            "upload": upload["id"],
            "digest": version["digest"],
            "build": builds[0]["build"],
        }


def world(asks: Asks) -> World:
    """Return a control plane filled with people and two projects."""
    made = World(asks, {"admin": asks.secret})
    made.project("one", sample())
    made.project("two", sample(2.0))
    for role in ("viewer", "developer", "operator"):
        made.user(role, one=role)
    made.user("owner", one="admin")
    made.user("neighbour", two="admin")
    made.user("stranger")
    return made


@contextlib.contextmanager
def local(folder: Path, store: str = "") -> Iterator[Local]:
    """A control plane in this process, ended at the end."""
    made = Local(folder, store)
    try:
        yield made
    finally:
        made.close()
