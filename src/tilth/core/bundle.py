"""The manifest of a bundle: the one artefact that every part reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from tilth.core.build import Build, Refusal
from tilth.core.certificate import Certificate
from tilth.core.graph import Graph
from tilth.core.signature import Signature

SCHEMA: Final = "tilth.bundle/1"


@dataclass(frozen=True)
class Array:
    """One array of the golden set: C-order little-endian bytes in a blob; strings as a JSON list."""

    dtype: str
    shape: tuple[int, ...]
    blob: str


#: A value by name: an array, a list of arrays for a sequence, or None for an absent optional.
Value = Array | tuple[Array, ...] | None


@dataclass(frozen=True)
class Case:
    """Inputs, and the outputs that the source framework gave for them."""

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]


@dataclass(frozen=True)
class Golden:
    """Sample inputs with the outputs of the source framework itself; what every build is compared with.

    `origin` says where the inputs came from: `given` by the user, or `made` from the signature.
    """

    origin: Literal["given", "made"]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Source:
    """Where the model came from: the framework that gave the golden outputs, and its version."""

    framework: str
    version: str
    name: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A candidate that was not certified, and why. `build` is its label where no build could be made."""

    label: str
    refusals: tuple[Refusal, ...]
    target: str = ""
    last_words: str = ""


@dataclass(frozen=True)
class Choice:
    """Which build was chosen for a target, what for, and the reasons for every other one, by build id.

    `busy` is the build whose lanes get more done while several calls wait, empty where none do.
    """

    target: str
    goal: Literal["latency", "throughput"]
    build: str
    batch: int
    reasons: Mapping[str, str]
    noisy: bool = False
    busy: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything in a bundle, by digest.

    `blobs` maps the digest of every blob in the bundle to its size in bytes. `graphs` holds the source graph
    first, then the graphs that recipes made of it.
    """

    schema: Literal["tilth.bundle/1"]
    name: str
    created_at: str
    source: Source
    graphs: tuple[Graph, ...]
    signature: Signature
    golden: Golden
    blobs: Mapping[str, int]
    builds: tuple[Build, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    refused: tuple[Refused, ...] = ()
    choices: tuple[Choice, ...] = ()
    tilth: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The source graph."""
        return self.graphs[0]
