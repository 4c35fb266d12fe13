"""What an engine plug-in must offer: refusals, candidates, and sessions that say where they run."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from tilth.core.build import Build, Precision, Refusal, Scalar
from tilth.core.certificate import Placement
from tilth.core.device import Device
from tilth.core.errors import MissingError
from tilth.core.graph import Graph
from tilth.ports.arrays import Value, Values


def installed_version(package: str, hint: str) -> str:
    """Return the version of the distribution that provides `package`, without importing it.

    Importing an engine takes up to half a second, and asking for its version is all that a cached result needs.

    Raises:
        MissingError: there is no such package, or nothing says which version it is.
    """
    try:
        found = importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    if found:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            names = importlib.metadata.packages_distributions().get(package, [])
            if names:
                return importlib.metadata.version(names[0])
    raise MissingError(f"{package} is not installed", why="Python finds no such package", hint=hint)


@dataclass(frozen=True)
class Option:
    """One way in which an engine offers to run a graph: a precision, a recipe of passes, and its own settings.

    `hopeful` is False for one that is not expected to win; it is measured last, in the time that is left. `instead_of`
    names a recipe that promises more: this option is only measured when no build of that one agrees.
    """

    precision: Precision
    recipe: str = "plain"
    settings: dict[str, Scalar] = field(default_factory=dict)
    hopeful: bool = True
    instead_of: str = ""


class Session(Protocol):
    """A loaded build."""

    def run(self, inputs: Values) -> dict[str, Value]:
        """Return every output by name, in graph order. `inputs` are of the signature's names, dtypes and shapes.

        The arrays are read, never written. The outputs belong to the caller.

        Raises:
            InvalidError: the engine refuses the values.
        """
        ...

    def placement(self) -> Placement:
        """Return where the engine says that each node was assigned; asked of the engine, never assumed."""
        ...

    def rest(self, inputs: Values) -> None:
        """Give back memory that only calls need, such as that of activations; the next call takes it anew.

        `inputs` are some that it ran. An engine that keeps no such memory, or cannot give it back, does nothing.
        """
        ...

    def close(self) -> None:
        """Give back memory and threads. Calling it twice is allowed."""
        ...


@runtime_checkable
class Repeats(Protocol):
    """A session with a shorter way for inputs that are like those of an earlier call.

    `again` is that way, None before there is one: it returns what `run` would for inputs of exactly the names, shapes
    and dtypes of the earlier call, and None for all others.
    """

    again: Callable[[Values], dict[str, Value] | None] | None


@runtime_checkable
class SetsThreads(Protocol):
    """An engine that can be told how many threads one call uses."""

    def on_threads(self, build: Build, threads: int) -> Build:
        """Return the same build with calls of at most so many threads; its other settings stay as they are."""
        ...


class Engine(Protocol):
    """What executes a graph on a target. Vendor libraries are imported inside these methods only."""

    name: str

    def version(self) -> str:
        """Return the engine's version.

        Raises:
            MissingError: the engine is not installed; the hint names the extra.
        """
        ...

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        """Return every reason why this engine will not run this graph on this device; empty when it will."""
        ...

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        """Return the ways to run this graph that are worth measuring, the engine's own default first."""
        ...

    def load(self, model: Path, build: Build, device: Device) -> Session:
        """Compile and load an ONNX file, whose external weights lie beside it.

        Raises:
            UnsupportedError: the engine cannot compile this graph; its own words are the reason.
        """
        ...
