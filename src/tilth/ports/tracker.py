"""What a tracker must offer: a server of training runs that can be guarded, and the models that are logged there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

#: What a request needs: to read, to write, to be an administrator; `closed` is for nobody.
Right = Literal["read", "write", "rule", "closed"]
#: What a request carries: JSON both ways, bytes as they are, a page of the tracker's own console, what such a page is
#: made of, or a file that a user has uploaded.
Carries = Literal["json", "bytes", "page", "asset", "file"]

#: Asks a tracking server, by GET: a path below the tracker's prefix, and a query; returns the JSON that it answers.
Ask = Callable[[str, Mapping[str, str]], Any]
#: Reads a small file of the server whole, by its path below the tracker's prefix.
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Rule:
    """One kind of request that a tracker's server answers.

    `path` is below the tracker's prefix, without a slash in front: `*` is one segment, `**` at the end one or more.
    Method `*` is any. `why` says of a closed one why nobody may ask it.
    """

    method: str
    path: str
    right: Right
    carries: Carries = "json"
    why: str = ""


@dataclass(frozen=True)
class Ground:
    """What a server is given: a folder for its database and its temporary files, and a place for artifacts.

    `python` runs it. `socket` is the number of a listening Unix socket that it inherits, `parent` the process that it
    must not outlive.
    """

    python: str
    folder: Path
    artifacts: str
    socket: int
    parent: int


@dataclass(frozen=True)
class Start:
    """How a server is started: a command, and its whole environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class TrackedRun:
    """A training run: what is known of it that a model's lineage is made of.

    `data` names datasets as name@digest, `code` the commit as git:SHA, `parent` the run that it is part of, by id.
    """

    id: str
    name: str = ""
    parent: str = ""
    code: str = ""
    data: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackedFile:
    """A file of a logged model: its path within the model, its size, and where it is below the tracker's prefix."""

    path: str
    size_bytes: int
    where: str


@dataclass(frozen=True)
class TrackedModel:
    """A model that a run has logged.

    `opens` is the path, among `files`, that a frontend is given; `is_code` says that opening it runs whatever it
    holds. `example` is the path of an input example, empty for none, and `inputs` what the model's signature says of
    its inputs, as (name, dtype) pairs, where an input of a single array has no name.
    """

    run: TrackedRun
    name: str
    flavour: str
    files: tuple[TrackedFile, ...]
    opens: str
    is_code: bool
    example: str = ""
    inputs: tuple[tuple[str, str], ...] = ()


class Tracker(Protocol):
    """One kind of tracking server. `name` is its prefix on the control plane's port, and that of its run ids."""

    name: str
    #: A path below the prefix that answers 200 once the server is ready.
    ready: str
    #: Request headers of its own that it is to be given, in lower case.
    headers: tuple[str, ...]
    #: Names of the environment variables that its clients read: the server's address, and a bearer token.
    variables: tuple[str, str]

    def version(self, python: str) -> str:
        """Return the version of the server that a Python interpreter would run.

        Raises:
            MissingError: it is not installed there, or cannot start.
            UnsupportedError: it is of a version that this plug-in does not know.
        """
        ...

    def start(self, ground: Ground) -> Start:
        """Return how the server is started; it may listen on nothing but the socket that it inherits.

        Raises:
            UnsupportedError: it cannot keep artifacts at that place.
        """
        ...

    def rules(self) -> Sequence[Rule]:
        """Return every request that may reach the server; what fits none never does.

        A path without `*` comes before those with one, and among these the first that fits counts.
        """
        ...

    def page_policy(self, base: str) -> str:
        """Return the Content-Security-Policy of its pages; `base` is the origin and prefix, ending in a slash."""
        ...

    def refusal(self, path: str, body: Any) -> str:
        """Return why a JSON body may not be passed on, or an empty string."""
        ...

    def run_of(self, path: str, query: Mapping[str, str], body: Any) -> str:
        """Return what a request is about, such as `runs/ID`, empty when it names nothing."""
        ...

    def named(self, text: str) -> tuple[str, str] | None:
        """Return run id and artifact path of a logged model's address, None when `text` is none.

        Raises:
            InvalidError: it begins as one and is none.
        """
        ...

    def find(self, ask: Ask, read: Read, run: str, path: str) -> TrackedModel:
        """Return a model that a run has logged, at an artifact path, or its only one where the path is empty.

        Raises:
            MissingError: there is no such run, or it has logged no such model.
            InvalidError: the path is empty and there are several; or what the server tells cannot be understood.
            UnsupportedError: no frontend takes a model of this flavour, or its files are kept elsewhere.
        """
        ...
