"""Bundles where a server finds them: `NAME/VERSION.tilth` as folders, every byte hashed on its way out of the store."""

import contextlib
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from tilth.bridge.container import open_container
from tilth.bridge.manifest import decode_manifest
from tilth.client.names import number
from tilth.control.intake.inspection import damaged, verified
from tilth.control.row_id import new_id
from tilth.core.digest import digest as digest_of
from tilth.core.errors import TilthError, UnavailableError
from tilth.ports.blob_store import BlobStore


class Shelf:
    """The folder that a server looks into."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self.folder, self._blobs = folder, blobs

    def put(self, name: str, version: str, digest: str) -> None:
        """Put a bundle where the server finds it; there whole or not at all.

        Raises:
            UntrustedError: a blob is damaged.
            MissingError: a blob is not there.
            UnavailableError: there is no room.
        """
        target = self.folder / name / f"{version}.tilth"
        made = self.folder / f".{new_id()}"
        try:
            (made / "blobs").mkdir(mode=0o700, parents=True)
            data = verified(self._blobs, digest)
            (made / "manifest.json").write_bytes(data)
            for blob in decode_manifest(data).blobs:
                self._copy(blob, made / "blobs" / blob)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            made.rename(target)
        except OSError as error:
            raise UnavailableError(
                f"the bundle cannot be put at `{target}`", why=error.strerror or str(error), hint="make room there"
            ) from None
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _copy(self, digest: str, path: Path) -> None:
        state = hashlib.sha256()
        with path.open("xb") as file:
            for block in self._blobs.read(digest):
                state.update(block)
                file.write(block)
        if state.hexdigest() != digest:
            raise damaged(self._blobs, digest)

    def remove(self, name: str, versions: list[str]) -> None:
        """Remove bundles; the folder of a name goes with its last one."""
        for version in versions:
            shutil.rmtree(self.folder / name / f"{version}.tilth", ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / name).rmdir()

    def look(self) -> dict[str, Mapping[str, str]]:
        """Return the digest of every bundle that is here, by name and version; what is none is removed."""
        found: dict[str, Mapping[str, str]] = {}
        for folder in sorted(self.folder.iterdir()):
            if folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.is_dir():
                found[folder.name] = self._versions(folder)
        return found

    def _versions(self, folder: Path) -> dict[str, str]:
        made = {}
        for path in sorted(folder.iterdir()):
            version = path.name.removesuffix(".tilth")
            try:
                container = open_container(path)
                try:
                    made[version] = digest_of(container.manifest())
                finally:
                    container.close()
            except TilthError:
                made.pop(version, None)
            if number(version) is None or version not in made:
                made.pop(version, None)
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return made
