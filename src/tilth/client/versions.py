"""Versions of models, their builds, and their way into stages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.shapes.model import (
    Approval,
    Candidate,
    Decision,
    Lineage,
    NewStage,
    NewVersion,
    Stage,
    Version,
    VersionChange,
)
from tilth.client.shapes.shape import Listing
from tilth.client.wire import made

#: A bundle is looked through before it is registered, one after the other.
_REGISTER_S = 300.0
#: A control plane that is started again meanwhile is waited for.
_PATIENCE_S = 30.0


class Versions(Noun):
    """The versions of models. `version` is a number, an alias or `latest`; `match` the etag that must still be there.

    Every method raises TilthError as the control plane says.
    """

    def list(self, model: str) -> Iterator[Version]:
        """Yield versions, newest first."""
        return pages(self.wire, Listing[Version], self._in("models", model, "versions"))

    def get(self, model: str, version: str = "latest") -> Version:
        """Return a version."""
        return self.wire.get(Version, self._of(model, version))

    def register(
        self,
        model: str,
        digest: str,
        *,
        aliases: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        description: str = "",
        lineage: Lineage | None = None,
    ) -> Version:
        """Register a bundle whose blobs are uploaded; `digest` is the one of its manifest. `push` does it all."""
        order = made(NewVersion, digest=digest, aliases=[*aliases], tags=tags, description=description, lineage=lineage)
        answer = self.wire.sent(
            "POST", self._in("models", model, "versions"), order=order, limit_s=_REGISTER_S, patience_s=_PATIENCE_S
        )
        return answer.as_(Version)

    def change(
        self,
        model: str,
        version: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        match: str | None = None,
    ) -> Version:
        """Change what is said of a version; what is None stays."""
        order = made(VersionChange, description=description, tags=tags)
        return self.wire.change(Version, "PATCH", self._of(model, version), order, match)

    def remove(self, model: str, version: str, *, match: str | None = None) -> None:
        """Remove a version that no endpoint serves."""
        self.wire.remove(self._of(model, version), match)

    def builds(self, model: str, version: str = "latest") -> Sequence[Candidate]:
        """Return builds with their certificates, and what was refused."""
        return self.wire.get(Listing[Candidate], f"{self._of(model, version)}/builds").items

    def build(self, model: str, version: str, build: str) -> Candidate:
        """Return a build with its certificate."""
        return self.wire.get(Candidate, self._in("models", model, "versions", version, "builds", build))

    def stage(self, model: str, version: str, stage: Stage, *, note: str = "", match: str | None = None) -> Approval:
        """Put a version into a stage, or ask for it: the approval is `waiting` when a second person has to agree."""
        return self.wire.post(
            Approval, f"{self._of(model, version)}/stage", made(NewStage, stage=stage, note=note), match
        )

    def _of(self, model: str, version: str) -> str:
        return self._in("models", model, "versions", version)


class Approvals(Noun):
    """Versions on their way into stages."""

    def list(
        self, *, state: Literal["", "waiting", "accepted", "rejected"] = "", model: str = ""
    ) -> Iterator[Approval]:
        """Yield approvals, newest first, those in a state or of a model where it is named."""
        query = {name: value for name, value in (("state", state), ("model", model)) if value}
        return pages(self.wire, Listing[Approval], self._in("approvals"), query)

    def get(self, approval_id: str) -> Approval:
        """Return an approval."""
        return self.wire.get(Approval, self._in("approvals", approval_id))

    def decide(self, approval_id: str, *, accept: bool, note: str = "") -> Approval:
        """Accept or reject; who asked cannot accept."""
        order = made(Decision, accept=accept, note=note)
        return self.wire.post(Approval, self._in("approvals", approval_id), order)
