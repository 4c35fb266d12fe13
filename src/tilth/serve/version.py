"""One version of a model as the supervisor sees it: its state, its place, and what others are told of it."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.serve.loading import Facts
from tilth.serve.plan import Standing
from tilth.serve.process import Process
from tilth.serve.traffic import Policy

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"


@dataclass
class Version:
    """A version of a model. `wanted` says that somebody asked for it to be served."""

    model: str
    version: str
    path: Path
    slot: int = -1
    state: str = UNAVAILABLE
    reason: str = "not loaded"
    wanted: bool = False
    inline: bool = False
    facts: Facts | None = None
    standing: Standing = field(default_factory=Standing)
    runner: Process | None = None
    socket: str = ""
    #: Whether workers were told to serve it, and what they serve until they are.
    placed: bool = False
    before: "Version | None" = None
    certified: Path | None = None
    stamp: tuple[int, int] = (0, 0)
    guard: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def source(self) -> Path:
        """The bundle to load: the given one, or the one that was certified on the spot."""
        return self.certified or self.path

    @property
    def may_start(self) -> bool:
        """Whether it ought to be started: it is wanted, does not answer, and has not ended too many processes."""
        return self.wanted and self.state != READY and not self.standing.quarantined

    def as_json(self) -> dict[str, Any]:
        """Return what workers are told."""
        facts = self.facts
        told = {"build": facts.build, "fallback_share": facts.fallback_share} if facts and self.slot >= 0 else None
        return {"slot": self.slot, "state": self.state, "reason": self.reason, "wanted": self.wanted, "facts": told}


@dataclass
class Model:
    """A model: its policy, and its versions by name."""

    name: str
    policy: Policy
    versions: dict[str, Version] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what workers are told."""
        policy = self.policy
        told = {"versions": policy.versions, "split": dict(policy.split), "shadow": dict(policy.shadow)}
        return {"policy": told, "versions": {name: one.as_json() for name, one in self.versions.items()}}


def stamp_of(path: Path) -> tuple[int, int]:
    """Return what changes when the bundle at `path` is replaced."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
