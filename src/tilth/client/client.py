"""`Client`: the control plane from Python, everything by its type."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tilth.client import pull as pulling
from tilth.client import push as pushing
from tilth.client.blobs import Blobs
from tilth.client.endpoints import Endpoints
from tilth.client.events import Events
from tilth.client.login import current_login
from tilth.client.models import Aliases, Models
from tilth.client.names import checked
from tilth.client.nodes import Devices, Nodes
from tilth.client.origin import seen_from
from tilth.client.progress import Progress, silent
from tilth.client.projects import Members, Projects
from tilth.client.pull import Pulled
from tilth.client.push import Pushed
from tilth.client.reference import parse_reference
from tilth.client.shapes.model import Lineage
from tilth.client.shapes.who import Me
from tilth.client.tokens import Tokens
from tilth.client.users import Users
from tilth.client.versions import Approvals, Versions
from tilth.client.wire import Wire, path_of

DEFAULT_PROJECT = "default"


class Client:
    """The control plane at `url`, as whom `token` says, about one project. Threads may share it.

    A token leaves this machine by HTTPS alone, unless `insecure` says otherwise; `ca` is a PEM file of the authority
    that the server's certificate is from, where the system does not know it. `timeout_s` is for one answer.

    Raises:
        InvalidError: `url`, `token`, `project` or `ca` is not one.
        MissingError: there is no file `ca`.
        RefusedError: the token would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        project: str = DEFAULT_PROJECT,
        ca: str | Path | None = None,
        insecure: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        checked("project", project)
        self._wire = wire = Wire(url, token, ca=ca, insecure=insecure, timeout_s=timeout_s)
        self.project = project
        self.users = Users(wire, project)
        self.tokens = Tokens(wire, project)
        self.projects = Projects(wire, project)
        self.members = Members(wire, project)
        self.models = Models(wire, project)
        self.aliases = Aliases(wire, project)
        self.versions = Versions(wire, project)
        self.approvals = Approvals(wire, project)
        self.endpoints = Endpoints(wire, project)
        self.nodes = Nodes(wire, project)
        self.devices = Devices(wire, project)
        self.events = Events(wire, project)
        self.blobs = Blobs(wire, project)

    @classmethod
    def logged_in(cls, project: str = "") -> Self:
        """Return the control plane of `tilth login`, or of `TILTH_URL` and `TILTH_TOKEN`, about its project or another.

        Raises:
            MissingError: you are not logged in.
            TilthError: as `current_login`, and as `Client` itself.
        """
        login = current_login()
        project = project or login.project
        return cls(login.url, login.token, project=project, ca=login.ca or None, insecure=login.insecure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Calling it twice is allowed."""
        self._wire.close()

    def me(self) -> Me:
        """Return who the token says that you are, and what you may do.

        Raises:
            UnknownError: the token is not accepted.
            AwayError: nobody answers.
        """
        me = self._wire.get(Me, path_of("me"))
        return me.model_copy(update={"serving": seen_from(me.serving, str(self._wire.origin))})

    def push(
        self,
        path: str | Path,
        model: str,
        *,
        aliases: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        description: str = "",
        lineage: Lineage | None = None,
        progress: Progress = silent,
    ) -> Pushed:
        """Upload a bundle and register it as the next version of `model`; see `tilth.client.push.push`."""
        parse_reference(model, version=False)
        return pushing.push(
            self.blobs,
            self.models,
            self.versions,
            Path(path),
            model,
            aliases=aliases,
            tags=tags,
            description=description,
            lineage=lineage,
            progress=progress,
        )

    def pull(self, reference: str, out: str | Path, *, progress: Progress = silent) -> Pulled:
        """Write the bundle of `MODEL` or `MODEL:VERSION` at `out`; see `tilth.client.pull.pull`."""
        named = parse_reference(reference)
        return pulling.pull(self.blobs, self.versions, named.model, named.version or "latest", out, progress=progress)
