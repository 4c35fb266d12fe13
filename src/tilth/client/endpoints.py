"""Endpoints: what is wanted of them, and what they do."""

import time
from collections.abc import Iterator, Sequence

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.progress import Progress, silent
from tilth.client.shapes.endpoint import (
    Deploy,
    Deployment,
    Endpoint,
    NewEndpoint,
    Promote,
    Rollback,
    UsagePoint,
)
from tilth.client.shapes.shape import Listing
from tilth.client.wire import made
from tilth.core.errors import RefusedError, UnavailableError

_AGAIN_S = 0.2
_GOOD = ("ready", "empty")
#: How long an endpoint may be degraded before that is what has come of it.
_LAME_S = 5.0
_UNHEARD = "nothing was heard of it"


class Endpoints(Noun):
    """The endpoints of a project. `version` is a number, an alias or `latest`; `match` the etag that must be there.

    What is wanted is written down at once; `standing` says what has come of it. Every method raises TilthError as the
    control plane says.
    """

    def list(self) -> Iterator[Endpoint]:
        """Yield endpoints by name."""
        return pages(self.wire, Listing[Endpoint], self._in("endpoints"))

    def get(self, name: str) -> Endpoint:
        """Return an endpoint."""
        return self.wire.get(Endpoint, self._in("endpoints", name))

    def newer(self, name: str, etag: str) -> Endpoint | None:
        """Return an endpoint, None when it still is what `etag` names."""
        return self.wire.newer(Endpoint, self._in("endpoints", name), etag)

    def make(self, name: str, model: str, *, description: str = "") -> Endpoint:
        """Make an endpoint of a model, which serves nothing yet."""
        order = made(NewEndpoint, name=name, model=model, description=description)
        return self.wire.post(Endpoint, self._in("endpoints"), order)

    def remove(self, name: str, *, match: str | None = None) -> None:
        """Remove an endpoint; what it serves stops."""
        self.wire.remove(self._in("endpoints", name), match)

    def deploy(
        self,
        name: str,
        version: str,
        *,
        traffic: float = 100.0,
        shadow: float = 0.0,
        note: str = "",
        match: str | None = None,
    ) -> Endpoint:
        """Want a version, with `traffic` percent of the requests, or seeing `shadow` percent without answering."""
        order = made(Deploy, version=version, traffic=traffic, shadow=shadow, note=note)
        return self.wire.post(Endpoint, self._in("endpoints", name, "deploy"), order, match)

    def settle(self, wanted: Endpoint, *, wait_s: float = 300.0, progress: Progress = silent) -> Endpoint:
        """Wait until what was wanted of an endpoint serves, and return it; with `wait_s` 0 return it as it is.

        Raises:
            RefusedError: it does not serve, and why; what served before goes on.
            UnavailableError: nobody knows after `wait_s`.
        """
        began = lame = time.monotonic()
        while True:
            found = self.get(wanted.name)
            seen = found.standing
            known = seen is not None and seen.about >= wanted.deployment
            state, message = (seen.state, seen.message) if seen is not None and known else ("deploying", _UNHEARD)
            if state in _GOOD or not wait_s:
                return found
            if state != "degraded":
                lame = time.monotonic()
            # A server that is looked at while it changes over shows a version that is about to answer.
            if state == "failed" or time.monotonic() - lame > _LAME_S:
                raise _failed(wanted, state, message)
            waited = time.monotonic() - began
            if waited > wait_s:
                raise UnavailableError(
                    f"endpoint `{wanted.name}` is not there after {wait_s:g} s",
                    why=message,
                    hint=f"it goes on without you: `tilth endpoints show {wanted.name}`",
                )
            progress("waiting", int(waited), int(wait_s), f"{wanted.name} is {state}")
            time.sleep(_AGAIN_S)

    def promote(self, name: str, version: str, *, note: str = "", match: str | None = None) -> Endpoint:
        """Want one version to answer everything."""
        order = made(Promote, version=version, note=note)
        return self.wire.post(Endpoint, self._in("endpoints", name, "promote"), order, match)

    def rollback(
        self, name: str, deployment: int | None = None, *, note: str = "", match: str | None = None
    ) -> Endpoint:
        """Want again what was wanted in an earlier deployment, the one before the newest when none is named."""
        order = made(Rollback, deployment=deployment, note=note)
        return self.wire.post(Endpoint, self._in("endpoints", name, "rollback"), order, match)

    def deployments(self, name: str) -> Iterator[Deployment]:
        """Yield what was wanted of an endpoint, newest first."""
        return pages(self.wire, Listing[Deployment], self._in("endpoints", name, "deployments"))

    def usage(self, name: str) -> Sequence[UsagePoint]:
        """Return what an endpoint did in the last minutes, oldest first."""
        return self.wire.get(Listing[UsagePoint], self._in("endpoints", name, "usage")).items


def _failed(wanted: Endpoint, state: str, message: str) -> RefusedError:
    return RefusedError(
        f"deployment {wanted.deployment} of endpoint `{wanted.name}` is {state}",
        why=message,
        hint=f"`tilth endpoints show {wanted.name}` shows what answers; `tilth rollback {wanted.name}` goes back",
    )
