"""Models, and the aliases that name their versions."""

from collections.abc import Iterator, Mapping, Sequence

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.shapes.model import Alias, AliasChange, Model, ModelChange, NewModel, Stage
from tilth.client.shapes.shape import Listing
from tilth.client.wire import made


class Models(Noun):
    """The models of a project. Every method raises TilthError as the control plane says.

    `approve` are the stages that a second person has to let a version into, `deploy` those that a version must be in
    to be deployed. `match` is the etag that must still be there.
    """

    def list(self, *, prefix: str = "") -> Iterator[Model]:
        """Yield models by name, those whose names begin with `prefix`."""
        return pages(self.wire, Listing[Model], self._in("models"), {"prefix": prefix} if prefix else None)

    def get(self, name: str) -> Model:
        """Return a model."""
        return self.wire.get(Model, self._in("models", name))

    def make(
        self,
        name: str,
        *,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        approve: Sequence[Stage] = (),
        deploy: Sequence[Stage] = (),
    ) -> Model:
        """Make a model without versions."""
        order = made(
            NewModel, name=name, description=description, tags=tags, approve=list(approve), deploy=list(deploy)
        )
        return self.wire.post(Model, self._in("models"), order)

    def change(
        self,
        name: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        approve: Sequence[Stage] | None = None,
        deploy: Sequence[Stage] | None = None,
        match: str | None = None,
    ) -> Model:
        """Change a model; what is None stays."""
        order = made(ModelChange, description=description, tags=tags, approve=_listed(approve), deploy=_listed(deploy))
        return self.wire.change(Model, "PATCH", self._in("models", name), order, match)

    def remove(self, name: str, *, match: str | None = None) -> None:
        """Remove a model that has no versions."""
        self.wire.remove(self._in("models", name), match)


class Aliases(Noun):
    """Names such as `champion` that move from version to version."""

    def list(self, model: str) -> Iterator[Alias]:
        """Yield the aliases of a model by name."""
        return pages(self.wire, Listing[Alias], self._in("models", model, "aliases"))

    def get(self, model: str, alias: str) -> Alias:
        """Return an alias."""
        return self.wire.get(Alias, self._in("models", model, "aliases", alias))

    def put(self, model: str, alias: str, number: int, *, match: str | None = None) -> Alias:
        """Let an alias name a version."""
        path = self._in("models", model, "aliases", alias)
        return self.wire.change(Alias, "PUT", path, made(AliasChange, number=number), match)

    def remove(self, model: str, alias: str, *, match: str | None = None) -> None:
        """Remove an alias; the version stays."""
        self.wire.remove(self._in("models", model, "aliases", alias), match)


def _listed(stages: Sequence[Stage] | None) -> Sequence[Stage] | None:
    return None if stages is None else [*stages]
