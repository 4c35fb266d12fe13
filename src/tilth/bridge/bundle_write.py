"""A bundle written whole or not at all."""

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tilth.bridge.arrays import encode_array, encode_value
from tilth.bridge.container import BLOBS, MANIFEST
from tilth.bridge.disk import clear_errors, new_file, put, sibling, sync_folder
from tilth.bridge.manifest import encode_manifest
from tilth.core.blob import BlobSource, chunks_of, size_of, sizes_of
from tilth.core.bundle import Manifest
from tilth.core.digest import digest as digest_of
from tilth.core.errors import InvalidError, RefusedError, UntrustedError

__all__ = ["BlobSource", "encode_array", "encode_value", "sizes_of", "write_bundle"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def write_bundle(
    path: Path | str, manifest: Manifest, blobs: Mapping[str, BlobSource], *, folder: bool | None = None
) -> str:
    """Write a bundle at `path` and return its digest; an older bundle there is replaced in one step.

    It becomes a folder when `path` is one, or ends in `/` (as text: a Path drops that), or `folder` says so; else
    one file. `blobs` holds exactly the blobs that the manifest lists. The same manifest and blobs give the same
    bytes. On any error, also an interrupt, nothing half-written stays and the older bundle is untouched.

    Raises:
        InvalidError: manifest and blobs do not fit together.
        UntrustedError: a blob does not hash to its name.
        RefusedError: something else than a bundle is at `path`.
        MissingError: the folder above `path` is not there.
        UnavailableError: the disk is full, or the place cannot be written.
    """
    as_folder = str(path).endswith("/") if folder is None else folder
    path = Path(path).resolve()
    data = encode_manifest(manifest)
    _check_complete(manifest, blobs)
    with clear_errors(path, len(data) + sum(manifest.blobs.values())):
        as_folder = _form(path, as_folder)
        with sibling(path, folder=as_folder) as made:
            (_write_folder if as_folder else _write_packed)(made, data, manifest, blobs)
            put(made, path)
    return digest_of(data)


def _check_complete(manifest: Manifest, blobs: Mapping[str, BlobSource]) -> None:
    missing, extra = manifest.blobs.keys() - blobs.keys(), blobs.keys() - manifest.blobs.keys()
    if missing or extra:
        raise InvalidError(
            f"blob {min(missing or extra)[:12]} is {'not at hand' if missing else 'not in the manifest'}",
            why=f"{len(missing)} blobs are missing and {len(extra)} are too many",
            hint="set `Manifest.blobs` with `sizes_of(blobs)`",
        )


def _form(path: Path, as_folder: bool) -> bool:
    """Return whether to write a folder; never over something that is not a bundle."""
    if not path.exists():
        return as_folder
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        if names and names != {MANIFEST, BLOBS}:
            raise _occupied(path, f"it is a folder that holds {ascii(min(names - {MANIFEST, BLOBS} or names))}")
        return True
    if as_folder:
        raise _occupied(path, "it is a file, and a folder was asked for")
    if not stat.S_ISREG(path.stat().st_mode) or not _looks_packed(path):
        raise _occupied(path, "it is a file of another kind")
    return False


def _looks_packed(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(43)
    return not head or (head.startswith(b"PK\3\4") and head[30:] == MANIFEST.encode())


def _occupied(path: Path, why: str) -> RefusedError:
    return RefusedError(
        f"`{path}` is not replaced", why=f"{why}; only a bundle is replaced by a bundle", hint="write elsewhere"
    )


def _write_folder(made: Path, data: bytes, manifest: Manifest, blobs: Mapping[str, BlobSource]) -> None:
    (made / BLOBS).mkdir(mode=0o700)
    for name in sorted(manifest.blobs):
        with _durable(made / BLOBS / name) as file:
            _copy(name, manifest, blobs[name], file)
    with _durable(made / MANIFEST) as file:
        file.write(data)
    sync_folder(made / BLOBS)
    sync_folder(made)


@contextmanager
def _durable(path: Path) -> Iterator[IO[bytes]]:
    with new_file(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_packed(made: Path, data: bytes, manifest: Manifest, blobs: Mapping[str, BlobSource]) -> None:
    with made.open("r+b") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(_member(MANIFEST, len(data)), "w") as member:
                member.write(data)
            for name in sorted(manifest.blobs):
                with archive.open(_member(f"{BLOBS}/{name}", manifest.blobs[name]), "w") as member:
                    _copy(name, manifest, blobs[name], member)
        file.flush()
        os.fsync(file.fileno())


def _member(name: str, size: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_STORED
    member.create_system = _UNIX
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    member.file_size = size
    return member


def _copy(name: str, manifest: Manifest, source: BlobSource, file: IO[bytes]) -> None:
    state = hashlib.sha256()
    if size_of(source) == manifest.blobs[name]:
        for block in chunks_of(source):
            state.update(block)
            file.write(block)
    if state.hexdigest() != name:
        raise UntrustedError(
            f"blob {name[:12]} holds other bytes",
            why=f"{size_of(source)} bytes hash to {state.hexdigest()[:12]}, {manifest.blobs[name]} were listed",
            hint="a file changed while it was read; start again",
        )
