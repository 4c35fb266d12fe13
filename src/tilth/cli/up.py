"""`tilth up`: a control plane on this machine."""

import asyncio
import gc
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from tilth import wiring
from tilth.cli.output import AsJson
from tilth.cli.store import store_address
from tilth.client.origin import parse_origin
from tilth.control.api.app import guarded
from tilth.control.home import Home, default_home
from tilth.control.listener import bound, listening
from tilth.control.oidc import CALLBACK, Config, check
from tilth.control.plane import ControlPlane, Settings
from tilth.control.tracking.server import Order
from tilth.core.address import Address, check_exposure, check_key_files, parse, parse_host
from tilth.core.errors import InvalidError, TilthError, UnavailableError
from tilth.core.host import HostRule

_MOST_SECRET = 4096
HomeFolder = Annotated[Path | None, typer.Option("--home", help="Folder of everything that it keeps.")]
Texts = list[str] | None


def command(
    home: HomeFolder = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of API and console.")] = 8750,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    store: Annotated[str, typer.Option("--store", help="Database, e.g. postgresql://...; default: SQLite.")] = "",
    blobs: Annotated[str, typer.Option("--blobs", help="Place for blobs: a folder, s3://bucket/prefix ...")] = "",
    serve_http: Annotated[str, typer.Option("--serve-http", help="Where endpoints answer REST.")] = "127.0.0.1:8751",
    serve_grpc: Annotated[str, typer.Option("--serve-grpc", help="Where endpoints answer gRPC.")] = "127.0.0.1:8752",
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key, PEM.")] = None,
    allow_host: Annotated[Texts, typer.Option("--allow-host", help="A Host to take on loopback, too.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback without TLS.")] = False,
    public_url: Annotated[str, typer.Option("--public-url", help="Where browsers reach it: a proxy's address.")] = "",
    oidc_issuer: Annotated[str, typer.Option("--oidc-issuer", help="Identity provider to sign in through.")] = "",
    oidc_client: Annotated[str, typer.Option("--oidc-client", help="What it knows this one as: the client id.")] = "",
    oidc_secret_file: Annotated[
        Path | None, typer.Option("--oidc-secret-file", help="File with the client secret, or TILTH_OIDC_SECRET.")
    ] = None,
    oidc_claim: Annotated[
        str, typer.Option("--oidc-claim", help="The claim that names a user.")
    ] = "preferred_username",
    oidc_domain: Annotated[Texts, typer.Option("--oidc-domain", help="Only e-mail addresses of this domain.")] = None,
    tracking: Annotated[bool, typer.Option("--tracking", help="Keep MLflow below /mlflow, behind this login.")] = False,
    tracking_python: Annotated[str, typer.Option("--tracking-python", help="The Python that has MLflow.")] = "",
    new_token: Annotated[bool, typer.Option("--new-token", help="Make another token of the administrator.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a control plane: registry, endpoints, users and console.

    The first start makes an administrator and prints its token, once. Ctrl-C, SIGTERM or `tilth down` ends it.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    place = Home((home or default_home()).absolute())
    database = store_address(store, place)
    address = Address(parse_host(host), port)
    if (tls_cert is None) != (tls_key is None):
        raise InvalidError("TLS needs both a certificate and its key", hint="give --tls-cert and --tls-key")
    endpoints = [parse(text) for text in (serve_http, serve_grpc)]
    check_exposure([address, *endpoints], tls=tls_cert is not None, tokens=True, insecure=insecure)
    if tls_cert is not None and tls_key is not None:
        check_key_files(tls_cert, tls_key)
    public = parse_origin(public_url) if public_url else None
    told = (oidc_issuer, oidc_client, oidc_claim, tuple(oidc_domain or ()))
    secret = _oidc_secret(oidc_secret_file) if oidc_issuer or oidc_client else ""
    if detach:
        _detached(place, as_json)
        return
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("httpx", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with place.held():
        listener = bound(address)
        url = f"{'https' if tls_cert else 'http'}://{Address(*listener.getsockname()[:2])}"
        settings = Settings(
            home=place,
            store=database,
            serve_http=serve_http,
            serve_grpc=serve_grpc,
            node=_node_name(),
            inspect=wiring.worker_command("inspect"),
            tilth=(sys.executable, "-m", "tilth"),
            serve_more=_serve_more(tls_cert, tls_key, endpoints, insecure),
            tracking=_tracking(tracking_python, blobs, place) if tracking or tracking_python else None,
            devices=[device for prober in wiring.probers() for device in prober.devices()],
            provider=_provider(*told, secret, str(public or url)) if oidc_issuer or oidc_client else None,
        )
        plane = ControlPlane(settings, wiring.blob_store(blobs or str(place.blobs)))
        first = plane.first_token()
        if new_token and first is None:
            first = plane.new_admin_token(time.strftime("made at a start %Y-%m-%d %H.%M"))
        rule = HostRule([address], [*(allow_host or ()), *([public.address.host] if public is not None else ())])
        door = listening(guarded(plane.desk.app, rule, public=public), listener, tls_cert, tls_key)
        with asyncio.Runner(loop_factory=wiring.load("uvloop:new_event_loop")) as runner:
            runner.run(_run(plane, place, door, url, first, as_json))


async def _run(
    plane: ControlPlane,
    place: Home,
    door: AbstractAsyncContextManager[None],
    url: str,
    first: str | None,
    as_json: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with door:
        await plane.start()
        # What is loaded stays: looking through it for garbage again and again stalls every request for 60 ms.
        gc.collect()
        gc.freeze()
        # A thread that comes back from the store waits that long for one that computes; there are several in a request.
        sys.setswitchinterval(0.0005)
        place.tell({"pid": os.getpid(), "address": url})
        order = plane.settings.tracking
        _say(url, first, as_json, f"{url}/{order.tracker.name}" if order is not None else "")
        await stop.wait()
        plane.ready = False
    place.forget()
    await plane.stop()


def _say(url: str, token: str | None, as_json: bool, tracking: str) -> None:
    if as_json:
        told = {"address": url, "token": token, "pid": os.getpid()}
        typer.echo(json.dumps(told | ({"tracking": tracking} if tracking else {})))
    else:
        typer.echo(f"control plane and console: {url}")
        if tracking:
            typer.echo(f"tracking: {tracking}")
        if token is not None:
            typer.echo(f"administrator's token, shown this once: {token}")
            typer.echo(f"next: tilth login {url}")
        typer.echo("Ctrl-C ends it")
    sys.stdout.flush()


def _detached(place: Home, as_json: bool) -> None:
    """Start the same command again in the background, and wait until it is ready."""
    arguments = [one for one in sys.argv[1:] if one not in ("-d", "--detach", "--json")]
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = place.folder / "control.log"
    with log.open("ab") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", "tilth", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert started.stdout is not None  # noqa: S101 - asked for above
    told = _told(started.stdout)
    if "address" not in told:
        kinds = {one.__name__: one for one in TilthError.__subclasses__()}
        raise kinds.get(told.get("error", ""), UnavailableError)(
            told.get("what", "the control plane did not start"),
            why=told.get("why", ""),
            hint=told.get("hint") or f"its log is `{log}`",
        )
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"control plane and console: {told['address']}")
        if told["token"]:
            typer.echo(f"administrator's token, shown this once: {told['token']}")
            typer.echo(f"next: tilth login {told['address']}")
        typer.echo("`tilth down` ends it")


def _told(output: IO[bytes]) -> dict[str, Any]:
    """Return what a start has said: one line when it is ready, or an error in several, which ends it."""
    line = output.readline()
    try:
        found = json.loads(line if line.startswith(b'{"') else line + output.read())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _serve_more(cert: Path | None, key: Path | None, endpoints: list[Address], insecure: bool) -> tuple[str, ...]:
    if cert is not None and key is not None:
        return ("--tls-cert", str(cert.absolute()), "--tls-key", str(key.absolute()))
    return ("--insecure",) if insecure and not all(one.loopback for one in endpoints) else ()


def _provider(issuer: str, client: str, claim: str, domains: tuple[str, ...], secret: str, public: str) -> Config:
    """Return how people sign in through a provider.

    Raises:
        InvalidError: it cannot work, or would send secrets in the clear.
    """
    config = Config(issuer, client, secret, f"{public}{CALLBACK}", claim, tuple(one.lower() for one in domains))
    check(config)
    return config


def _oidc_secret(file: Path | None) -> str:
    if file is None:
        return os.environ.get("TILTH_OIDC_SECRET", "")
    with file.open(encoding="utf-8") as opened:
        return opened.read(_MOST_SECRET).strip()


def _tracking(python: str, blobs: str, home: Home) -> Order:
    """Return the tracking server that is wanted, once it is known to be there.

    Raises:
        MissingError: it is not installed.
    """
    tracker, chosen = wiring.trackers()[0], python or sys.executable
    chosen = os.path.abspath(chosen) if "/" in chosen else chosen
    logging.getLogger("tilth.tracking").info("%s %s is to start", tracker.name, tracker.version(chosen))
    if not blobs:
        return Order(tracker, chosen, str(home.folder / "tracking/artifacts"))
    place = blobs.rstrip("/") if "://" in blobs else os.path.abspath(blobs)
    return Order(tracker, chosen, f"{place}/{tracker.name}-artifacts")


def _node_name() -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", platform.node().lower()).strip("-")[:64]
    return name or "this-machine"
