"""A bundle on its way out of a registry: blobs that are not here are downloaded, then the bundle is written."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.destination import check_destination
from tilth.bridge.disk import clear_errors, discard
from tilth.bridge.manifest import MAX_MANIFEST_BYTES, decode_manifest, encode_manifest
from tilth.client.blobs import Blobs
from tilth.client.download import download, fetch, is_ours, left_bytes
from tilth.client.progress import Progress, silent
from tilth.client.shapes.model import Version
from tilth.client.versions import Versions
from tilth.core.blob import FileRange
from tilth.core.digest import checked_digest
from tilth.core.digest import digest as digest_of
from tilth.core.errors import RefusedError, UnavailableError, UntrustedError

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Pulled:
    """What a pull has done: the version, where its bundle is, and the bytes that had to come for it."""

    version: Version
    path: Path
    came_bytes: int


def pull(
    blobs: Blobs,
    versions: Versions,
    model: str,
    version: str,
    out: str | Path,
    *,
    progress: Progress = silent,
    patience_s: float = PATIENCE_S,
) -> Pulled:
    """Write the bundle of a version at `out`: a `.tilth` file, or a folder where it is one or ends in `/`.

    Every byte is checked against the digest that the registry names. Interrupted, it leaves what came in a folder
    beside `out`, where the same pull goes on; a bundle that is at `out` is replaced in one step at the end.

    Raises:
        MissingError: there is no such version, or no folder for `out`.
        RefusedError: something else than a bundle is at `out`, or another pull writes there.
        UntrustedError: what came is not what the registry named.
        UnavailableError: there is no room, or nobody answered for `patience_s`.
        TilthError: as the control plane says.
    """
    path = Path(out).resolve()
    check_destination(path)
    found = versions.get(model, version)
    digest = checked_digest(found.digest)
    progress("manifest", 0, 1, f"{model}:{found.number}")
    data = fetch(blobs, digest, MAX_MANIFEST_BYTES, patience_s)
    manifest = decode_manifest(data)
    if digest_of(encode_manifest(manifest)) != digest:
        raise UntrustedError(
            f"the bundle of `{model}:{found.number}` cannot be written with the digest {digest[:12]}",
            why="its manifest is in another form than this version of Tilth writes",
            hint="make the bundle again with `tilth import` and push it",
        )
    with clear_errors(path, 2 * sum(manifest.blobs.values())), _partial(path) as folder:
        for one in folder.iterdir():
            if not is_ours(one.name, manifest.blobs):
                discard(one)
        left = left_bytes(folder, manifest.blobs)
        _check_room(path, left + sum(manifest.blobs.values()))
        download(blobs, folder, manifest.blobs, progress, patience_s)
        progress("write", 0, 1, path.name)
        sources = {name: FileRange(folder / name, 0, size) for name, size in manifest.blobs.items()}
        try:
            write_bundle(out, manifest, sources)
        except UntrustedError:
            # Something changed what had been verified: none of it is worth keeping.
            for name in manifest.blobs:
                discard(folder / name)
            raise
        shutil.rmtree(folder)
    return Pulled(found, path, left + len(data))


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Make the folder beside `path` in which blobs gather, and keep other pulls out of it.

    Raises:
        RefusedError: another one is in it.
    """
    folder = path.with_name(f".{path.name[:40]}.{digest_of(os.fsencode(path.name))[:8]}.pull")
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"`{path}` is being written", why="another pull is at it", hint="wait for its end, or write elsewhere"
            ) from None
        yield folder
    finally:
        os.close(handle)


def _check_room(path: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed_bytes:
        raise UnavailableError(
            f"there is no room for `{path}`",
            why=f"{needed_bytes} bytes are needed on the way, and {free} are free in `{path.parent}`",
            hint="make room, or write elsewhere",
        )
