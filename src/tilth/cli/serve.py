"""`tilth serve`: bundles over the Open Inference Protocol."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth import wiring
from tilth.bridge.build import Tools, build_file
from tilth.bridge.cache import Cache
from tilth.bridge.request import Request
from tilth.bridge.search import Progress
from tilth.cli.output import AsJson
from tilth.cli.quantity import seconds, share, size_bytes
from tilth.core.address import check_exposure, check_key_files, parse
from tilth.core.errors import InvalidError, MissingError
from tilth.core.version import VERSION
from tilth.serve import sources
from tilth.serve.limits import Limits
from tilth.serve.logs import Log
from tilth.serve.settings import Settings
from tilth.serve.supervisor import Supervisor
from tilth.serve.traffic import Policy

Texts = list[str] | None


def command(
    bundles: Annotated[list[str] | None, typer.Argument(help="PATH, NAME=PATH or NAME:VERSION=PATH.")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="A folder: NAME.tilth, NAME/VERSION.tilth.")] = None,
    http: Annotated[str, typer.Option("--http", help="Address for REST.")] = "127.0.0.1:8751",
    grpc: Annotated[str, typer.Option("--grpc", help="Address for gRPC.")] = "127.0.0.1:8752",
    manage: Annotated[str, typer.Option("--manage", help="An address for repository and metrics alone.")] = "",
    workers: Annotated[int, typer.Option("--workers", help="Processes; 0: one per core.")] = 0,
    policy: Annotated[Texts, typer.Option("--policy", help="NAME=latest, NAME=all or NAME=1,3.")] = None,
    split: Annotated[Texts, typer.Option("--split", help="Traffic by weight: NAME=1:90,2:10.")] = None,
    shadow: Annotated[Texts, typer.Option("--shadow", help="Share shown to a version: NAME=3:5%.")] = None,
    isolate: Annotated[str, typer.Option("--isolate", help="Own process per version: auto, always, never.")] = "auto",
    certify: Annotated[str, typer.Option("--certify", help="Budget for a missing certificate; 0s: none.")] = "20s",
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key, PEM.")] = None,
    tokens: Annotated[Path | None, typer.Option("--tokens", help="File of token hashes and scopes.")] = None,
    jwt_key: Annotated[Path | None, typer.Option("--jwt-key", help="Public key that signs JWTs, PEM.")] = None,
    jwt_issuer: Annotated[str, typer.Option("--jwt-issuer", help="Issuer that JWTs must name.")] = "",
    jwt_audience: Annotated[str, typer.Option("--jwt-audience", help="Audience that JWTs must name.")] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond loopback without TLS and tokens.")
    ] = False,
    allow_host: Annotated[Texts, typer.Option("--allow-host", help="A Host to take on loopback, too.")] = None,
    allow_origin: Annotated[Texts, typer.Option("--allow-origin", help="An Origin that browsers may send.")] = None,
    max_body: Annotated[str, typer.Option("--max-body", help="Largest request.")] = "64MiB",
    connections: Annotated[int, typer.Option("--connections", help="Connections per worker.")] = 1024,
    queue: Annotated[int, typer.Option("--queue", help="Requests per model and worker in progress.")] = 256,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request, not errors alone.")] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    otlp: Annotated[str, typer.Option("--otlp", help="OpenTelemetry collector: http://127.0.0.1:4318.")] = "",
    capture: Annotated[Path | None, typer.Option("--capture", help="Keep sampled requests in this folder.")] = None,
    capture_share: Annotated[str, typer.Option("--capture-share", help="Share of requests to keep.")] = "1%",
    capture_budget: Annotated[str, typer.Option("--capture-budget", help="Bytes to keep at most.")] = "256MiB",
    drain: Annotated[str, typer.Option("--drain", help="Time to finish requests at the end.")] = "10s",
    as_json: AsJson = False,
) -> None:
    """Serve bundles over the Open Inference Protocol, REST and gRPC.

    The build that is certified for this machine answers; a bundle without one is certified first. It listens on this
    machine alone unless told otherwise, and ends cleanly on Ctrl-C or SIGTERM.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if not bundles and models is None:
        raise MissingError("there is nothing to serve", hint="name bundles, or a folder of them with `--models`")
    if isolate not in ("auto", "always", "never"):
        raise InvalidError(f"`--isolate {isolate}` is not known", hint="auto, always or never")
    limits = Limits(body_bytes=size_bytes(max_body), connections=connections, queue=queue)
    settings = Settings(
        models=sources.named(bundles or []),
        folder=models,
        http=parse(http),
        grpc=parse(grpc) if grpc else None,
        manage=parse(manage) if manage else None,
        policies=_policies(policy or [], split or [], shadow or []),
        workers=workers or len(os.sched_getaffinity(0)),
        isolation=isolate,  # type: ignore[arg-type]
        limits=limits,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tokens=tokens,
        jwt_key=jwt_key,
        jwt_issuer=jwt_issuer,
        jwt_audience=jwt_audience,
        allow_hosts=tuple(allow_host or ()),
        allow_origins=tuple(allow_origin or ()),
        access_log=access_log,
        log_level=log_level,
        otlp=otlp,
        capture=capture,
        capture_share=share(capture_share),
        capture_bytes=size_bytes(capture_budget),
        drain_s=seconds(drain),
    )
    _check(settings, insecure)
    budget_s = 0.0 if certify in ("0", "0s") else seconds(certify)
    supervisor = Supervisor(
        settings,
        wiring.this_device,
        wiring.worker_command("worker"),
        wiring.worker_command("runner"),
        _certifier(budget_s) if budget_s else None,
        Log(sys.stderr, log_level),
        lambda addresses: _say(addresses, as_json),
    )
    asyncio.run(supervisor.run())


def _check(settings: Settings, insecure: bool) -> None:
    addresses = [one for one in (settings.http, settings.grpc, settings.manage) if one is not None]
    tls = settings.tls_cert is not None and settings.tls_key is not None
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidError("TLS needs both a certificate and its key", hint="give --tls-cert and --tls-key")
    credentials = settings.tokens is not None or settings.jwt_key is not None
    check_exposure(addresses, tls=tls, tokens=credentials, insecure=insecure)
    if settings.tls_cert is not None and settings.tls_key is not None:
        check_key_files(settings.tls_cert, settings.tls_key)


def _policies(versions: list[str], split: list[str], shadow: list[str]) -> dict[str, Policy]:
    kept, splits = sources.policies(versions), sources.weights(split, "--split")
    shadows = sources.weights(shadow, "--shadow")
    found: dict[str, Policy] = {}
    for name in {*kept, *splits, *shadows}:
        shares = {version: min(1.0, value / 100) for version, value in shadows.get(name, {}).items()}
        found[name] = Policy(kept.get(name, "latest"), splits.get(name, {}), shares)
    return found


def _certifier(budget_s: float) -> Any:
    def certify(path: Path, out: Path, progress: Progress) -> None:
        measure, derive = wiring.worker_command("measure"), wiring.worker_command("derive")
        tools = Tools(wiring.engines(), measure, derive, Cache(), VERSION)
        request = Request(budget_s=budget_s)
        build_file(path, out, wiring.this_device(), request, tools, progress).check()

    return certify


def _say(addresses: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps({"pid": os.getpid(), **addresses}))
    else:
        for name, address in addresses.items():
            typer.echo(f"{name:8}{address}")
        typer.echo("loading; GET /v2/health/ready says when all models answer; Ctrl-C ends it")
    sys.stdout.flush()
