"""How a server is started: where it listens, what it serves and what it allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tilth.core.address import Address
from tilth.serve.limits import Limits
from tilth.serve.plan import Isolation
from tilth.serve.sources import Models
from tilth.serve.traffic import Policy


@dataclass(frozen=True)
class Settings:
    """Everything that `tilth serve` was told. `manage` is an address of its own for the repository and the metrics."""

    models: Models
    http: Address
    grpc: Address | None = None
    manage: Address | None = None
    folder: Path | None = None
    policies: Mapping[str, Policy] = field(default_factory=dict)
    workers: int = 1
    isolation: Isolation = "auto"
    limits: Limits = field(default_factory=Limits)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tokens: Path | None = None
    jwt_key: Path | None = None
    jwt_issuer: str = ""
    jwt_audience: str = ""
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    access_log: bool = False
    log_level: str = "info"
    otlp: str = ""
    capture: Path | None = None
    capture_share: float = 0.0
    capture_bytes: int = 0
    drain_s: float = 10.0
