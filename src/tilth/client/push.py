"""A bundle on its way into a registry: what is missing is uploaded, then the version is registered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilth.bridge.container import Container, open_container
from tilth.bridge.manifest import decode_manifest
from tilth.client.blobs import Blobs
from tilth.client.errors import ConflictError
from tilth.client.lineage import noted
from tilth.client.models import Models
from tilth.client.progress import Progress, silent
from tilth.client.shapes.model import Lineage, Version
from tilth.client.upload import upload
from tilth.client.versions import Versions
from tilth.core.bundle import Manifest
from tilth.core.digest import digest as digest_of
from tilth.core.errors import MissingError, UntrustedError

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Pushed:
    """What a push has done: the version, the bytes that had to be sent for it, and whether the model is new."""

    version: Version
    sent_bytes: int
    made_model: bool


def push(
    blobs: Blobs,
    models: Models,
    versions: Versions,
    path: Path,
    model: str,
    *,
    aliases: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    description: str = "",
    lineage: Lineage | None = None,
    progress: Progress = silent,
    patience_s: float = PATIENCE_S,
) -> Pushed:
    """Upload what the project does not have of a bundle, and register it as the next version of `model`.

    A model that is not there is made; without `lineage`, the bundle's notes tell it. Interrupted, it leaves what was
    uploaded, and a new push sends the rest.

    Raises:
        MissingError: there is no bundle, or no such project.
        InvalidError: it is no bundle, or a name is none.
        UntrustedError: the bundle is damaged, or was changed while it was read.
        AwayError: nobody answered for `patience_s`.
        TilthError: as the control plane says.
    """
    container = open_container(path)
    try:
        data = container.manifest()
        manifest = decode_manifest(data)
        _check_whole(manifest, container)
        sizes = {**manifest.blobs, digest_of(data): len(data)}
        progress("ask", 0, 1, f"{len(sizes)} blobs")
        missing = blobs.missing(sizes)
        made_model = _made(models, model)
        wanted = {name: sizes[name] for name in sorted(missing)}
        upload(blobs, container, data, wanted, progress, patience_s)
        progress("register", 0, 1, model)
        version = versions.register(
            model,
            digest_of(data),
            aliases=aliases,
            tags=tags,
            description=description,
            lineage=lineage or noted(manifest.notes),
        )
        return Pushed(version, sum(wanted.values()), made_model)
    finally:
        container.close()


def _made(models: Models, name: str) -> bool:
    """Make a model where there is none, and return whether it was made."""
    try:
        models.get(name)
        return False
    except MissingError:
        pass
    try:
        models.make(name)
        return True
    except ConflictError:
        return False  # somebody else has made it in between


def _check_whole(manifest: Manifest, container: Container) -> None:
    for name, size in manifest.blobs.items():
        found = container.sizes.get(name)
        if found != size:
            why = "it is not there" if found is None else f"it has {found} bytes, and {size} are listed"
            raise UntrustedError(
                f"blob {name[:12]} of the bundle is not what its manifest says",
                why=why,
                hint="the bundle was altered or damaged; make it again, or fetch it again from where it was made",
            )
