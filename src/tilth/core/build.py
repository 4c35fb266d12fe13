"""A graph compiled for a chip, before and after anyone knows whether it is any good."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from tilth.core.digest import canonical_json, digest
from tilth.core.record import to_json

Scalar = str | bool | int | float


class Precision(StrEnum):
    """The arithmetic of the heavy operators; inputs and outputs keep the signature's dtypes."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class Verdict(StrEnum):
    """Whose move a refusal is: ours to write, theirs to fix, or nobody's."""

    TODO = "todo"
    UPSTREAM = "upstream"
    NEVER = "never"


@dataclass(frozen=True)
class Refusal:
    """Why something will not be made or used, in one sentence for a person."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Build:
    """Graph x target x engine x precision x settings.

    `graph` is the digest of the source graph; `recipe` names the passes that turn it into the graph that the
    engine loads (`bridge.recipes`), and `variant` is that graph's digest once it is made. `settings` are the
    engine's own, in the engine's words. An unmeasured build is a candidate.
    """

    graph: str
    target: str
    engine: str
    precision: Precision
    recipe: str = "plain"
    variant: str = ""
    settings: Mapping[str, Scalar] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Return the first 12 digits of the digest of everything that makes this build what it is."""
        return digest(canonical_json(to_json(self)))[:12]

    @property
    def label(self) -> str:
        """Return engine, precision, recipe and settings as one short line for people."""
        parts = [self.engine, self.precision.value]
        if self.recipe != "plain":
            parts.append(self.recipe)
        parts += [f"{key}={value}" for key, value in sorted(self.settings.items())]
        return " ".join(parts)
