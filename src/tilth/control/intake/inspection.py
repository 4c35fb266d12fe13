"""Bundles, checked before anybody can see them: the manifest here, its graphs in a child process that may crash."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.bridge.import_apart import as_error
from tilth.bridge.manifest import MAX_MANIFEST_BYTES, decode_manifest
from tilth.bridge.measure.worker import Worker, WorkerFailed, start
from tilth.control.intake.bundle import check_blobs, summary
from tilth.control.intake.needed import needed
from tilth.core.bundle import Manifest
from tilth.core.digest import digest as digest_of
from tilth.core.errors import InvalidError, MissingError, TilthError, UnavailableError, UntrustedError
from tilth.ports.blob_store import BlobStore

_LIMIT_S = 60.0
_MEMORY_BYTES = 4 << 30
_IDLE_S = 120.0
#: What can be done about a blob that is damaged or lost.
RESTORE = "restore it from a backup, or push the bundle again after `tilth restore --check`"
#: Bytes of graphs and texts of one bundle that are opened.
_MOST_OPENED_BYTES = 1 << 30


@dataclass(frozen=True)
class Inspected:
    """A bundle that is what its digest says: what lists say of it, and its blobs with the manifest among them."""

    summary: Mapping[str, Any]
    sizes: Mapping[str, int]


class Inspection:
    """Checks bundles out of `blobs`, in a child that `command` starts, which ends when it is idle."""

    def __init__(self, blobs: BlobStore, command: Sequence[str], folder: Path) -> None:
        self._blobs, self._command, self._folder = blobs, command, folder
        self._child: Worker | None = None
        self._turn = asyncio.Lock()
        self._last = 0.0

    async def check(self, digest: str, known: Callable[[Sequence[str]], Mapping[str, int]]) -> Inspected:
        """Return what a bundle holds; `known` tells sizes of those blobs that the project has.

        Raises:
            MissingError: blobs were not uploaded.
            InvalidError, UnsupportedError, UntrustedError: it is not a sound bundle.
            UnavailableError: there is no room to lay it out.
        """
        manifest = await asyncio.to_thread(self._manifest, digest, known)
        async with self._turn:
            await asyncio.to_thread(self._opened, digest, manifest)
        sizes = dict(manifest.blobs) | {digest: known([digest])[digest]}
        return Inspected(summary(manifest), sizes)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    async def rest(self) -> None:
        """End the child when nobody needed it for a while."""
        if self._child is not None and time.monotonic() - self._last > _IDLE_S and not self._turn.locked():
            async with self._turn:
                await asyncio.to_thread(self.close)

    def _manifest(self, digest: str, known: Callable[[Sequence[str]], Mapping[str, int]]) -> Manifest:
        size_bytes = known([digest]).get(digest)
        if size_bytes is None:
            raise MissingError(
                f"manifest {digest[:12]} was not uploaded to this project", hint="upload it like every other blob"
            )
        if size_bytes > MAX_MANIFEST_BYTES:
            raise InvalidError(f"manifest {digest[:12]} has {size_bytes} bytes", why="it is no manifest of a bundle")
        data = verified(self._blobs, digest)
        manifest = decode_manifest(data)
        check_blobs(manifest, known(sorted(manifest.blobs)))
        return manifest

    def _opened(self, digest: str, manifest: Manifest) -> None:
        wanted = needed(manifest)
        total = sum(manifest.blobs[one] for one in wanted)
        if total > _MOST_OPENED_BYTES:
            raise InvalidError(
                "the bundle cannot be checked",
                why=f"its graphs and texts have {total} bytes together, and {_MOST_OPENED_BYTES} are opened at most",
            )
        try:
            with tempfile.TemporaryDirectory(prefix="inspect-", dir=self._folder, ignore_cleanup_errors=True) as made:
                folder = Path(made)
                for name in wanted:
                    (folder / name).write_bytes(verified(self._blobs, name))
                (folder / "manifest.json").write_bytes(verified(self._blobs, digest))
                self._ask(folder)
        except OSError as error:
            raise UnavailableError(
                "the bundle cannot be checked",
                why=f"its graphs cannot be laid out in `{self._folder}`: {error.strerror or error}",
                hint="make room on the disk of the control plane's home; the blobs that were uploaded stay",
            ) from None

    def _ask(self, folder: Path) -> None:
        if self._child is None:
            self._child = start(self._command, self._folder / "inspector.log", _MEMORY_BYTES)
        self._last = time.monotonic()
        try:
            self._child.call("inspect", _LIMIT_S, folder=str(folder))
        except WorkerFailed as failure:
            if failure.error is None:
                self.close()
                raise _crashed(failure) from None
            raise as_error(failure) from None


def verified(blobs: BlobStore, digest: str) -> bytes:
    """Return the bytes of a blob, hashed.

    Raises:
        UntrustedError: they are others than were put there.
        MissingError: there is no such blob.
    """
    data = b"".join(blobs.read(digest))
    if digest_of(data) != digest:
        raise damaged(blobs, digest)
    return data


def damaged(blobs: BlobStore, digest: str) -> UntrustedError:
    """Return what is said of a blob whose bytes have changed where they are kept."""
    return UntrustedError(
        f"blob {digest[:12]} is damaged",
        why=f"its bytes in `{blobs.place}` are not those that were put there",
        hint=RESTORE,
    )


def _crashed(failure: WorkerFailed) -> TilthError:
    return InvalidError(
        "the bundle cannot be checked",
        why=f"the process that opened its graphs {failure.reason}",
        hint="make it again with `tilth import`; `tilth show --verify` checks it on your side",
    )
