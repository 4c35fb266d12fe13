"""The two forms of a bundle, a folder and one file, behind one reader. Verification step 1."""

import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tilth.bridge.manifest import MAX_BLOBS, MAX_MANIFEST_BYTES
from tilth.bridge.stored_zip import Member, read_members
from tilth.core.blob import FileRange, not_regular, open_regular, read_all
from tilth.core.errors import InvalidError, MissingError, UnavailableError, UntrustedError

MANIFEST = "manifest.json"
BLOBS = "blobs"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Opened:
    """An open file and the range of it that holds a blob. `owned` files are closed after each read."""

    handle: int
    offset: int
    size: int
    owned: bool


class Container(Protocol):
    """Where the manifest and the blobs of an open bundle are."""

    #: Size in bytes by digest, as found; what the manifest says is another matter.
    sizes: Mapping[str, int]

    def manifest(self) -> bytes:
        """Return the bytes of the manifest."""
        ...

    def opened(self, digest: str) -> Opened:
        """Return an open range for a blob that is in `sizes`.

        Raises:
            UntrustedError: it became a link, or something else than a plain file.
            MissingError: it went away.
        """
        ...

    def source(self, digest: str) -> FileRange:
        """Return where the blob lies on disk."""
        ...

    def close(self) -> None:
        """Give back open files. Calling it twice is allowed."""
        ...


def open_container(path: Path) -> Container:
    """Return a reader of the folder or file at `path`.

    Raises:
        MissingError: there is nothing at `path`.
        InvalidError: it is no bundle.
        UntrustedError: it holds links, other names, or is not a plain ZIP of stored members.
        UnavailableError: it cannot be read.
    """
    try:
        return Folder(path) if path.is_dir() else Packed(path)
    except OSError as error:
        raise UnavailableError(
            f"`{path}` cannot be read", why=str(error.strerror), hint="check the path and your permissions"
        ) from None


class Packed:
    """A bundle in one `.tilth` file. It stays open, so that a bundle put in its place changes nothing here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _open_packed(path)
        try:
            self._members: Mapping[str, Member] = read_members(self._handle, limit=MAX_BLOBS + 1)
            if MANIFEST not in self._members:
                raise _not_a_bundle(path, "it holds no manifest")
            _check_manifest_size(self._members[MANIFEST].size)
        except BaseException:
            self.close()
            raise
        self.sizes: Mapping[str, int] = {
            name.removeprefix(f"{BLOBS}/"): item.size for name, item in self._members.items() if name != MANIFEST
        }

    def manifest(self) -> bytes:
        """Return the bytes of the manifest."""
        member = self._members[MANIFEST]
        data = read_all(self._handle, member.offset, member.size, MANIFEST)
        # Nothing names the manifest by digest; against accidents the checksum of the ZIP member does.
        if zlib.crc32(data) != member.crc:
            raise UntrustedError(
                "the manifest was damaged",
                why="its checksum is another",
                hint="fetch the bundle again from where it was made",
            )
        return data

    def opened(self, digest: str) -> Opened:
        """Return the range of the bundle's file that holds the blob."""
        member = self._members[f"{BLOBS}/{digest}"]
        return Opened(self._handle, member.offset, member.size, owned=False)

    def source(self, digest: str) -> FileRange:
        """Return where the blob lies on disk."""
        member = self._members[f"{BLOBS}/{digest}"]
        return FileRange(self._path, member.offset, member.size)

    def close(self) -> None:
        """Give back the open file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Folder:
    """A bundle as a folder. Blobs are opened one by one, relative to the folder that was looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._blobs = -1
        try:
            _check_names(self._top, path)
            self._blobs = _open_blobs(self._top, path)
            self.sizes: Mapping[str, int] = _scan(self._blobs)
        except BaseException:
            self.close()
            raise

    def manifest(self) -> bytes:
        """Return the bytes of the manifest."""
        handle = _open_single(MANIFEST, self._top)
        try:
            size = os.fstat(handle).st_size
            _check_manifest_size(size)
            return read_all(handle, 0, size, MANIFEST)
        finally:
            os.close(handle)

    def opened(self, digest: str) -> Opened:
        """Return the opened file of the blob."""
        handle = _open_single(digest, self._blobs)
        return Opened(handle, 0, os.fstat(handle).st_size, owned=True)

    def source(self, digest: str) -> FileRange:
        """Return where the blob lies on disk."""
        return FileRange(self._path / BLOBS / digest, 0, self.sizes[digest])

    def close(self) -> None:
        """Give back the open folders."""
        for handle in (self._top, self._blobs):
            if handle >= 0:
                os.close(handle)
        self._top = self._blobs = -1


def _open_packed(path: Path) -> int:
    try:
        handle = open_regular(path, follow=True)
    except MissingError:
        raise MissingError(
            f"there is no bundle `{path}`",
            why="the path leads nowhere",
            hint=f"make one with `tilth import MODEL -o {path.name}`",
        ) from None
    if os.pread(handle, 4, 0) != b"PK\3\4":
        os.close(handle)
        raise _not_a_bundle(path, "it does not start like one")
    return handle


def _check_names(top: int, path: Path) -> None:
    with os.scandir(top) as found:
        for count, entry in enumerate(found):
            if entry.name not in (MANIFEST, BLOBS) or count > 1:
                raise _not_a_bundle(path, f"it holds {ascii(entry.name[:80])}; a bundle holds manifest and blobs only")


def _open_blobs(top: int, path: Path) -> int:
    try:
        return os.open(BLOBS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=top)
    except FileNotFoundError:
        raise _not_a_bundle(path, "it has no folder `blobs`") from None
    except NotADirectoryError:
        raise not_regular(f"{path}/{BLOBS}", "it is a link or not a folder") from None


def _scan(blobs: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    with os.scandir(blobs) as found:
        for entry in found:
            if not _HEX.fullmatch(entry.name) or len(sizes) >= MAX_BLOBS:
                raise UntrustedError(
                    f"`blobs` holds {ascii(entry.name[:80])}",
                    why=f"it is not the name of a blob, or there are more than {MAX_BLOBS:,}",
                    hint="remove what does not belong there, or fetch the bundle again",
                )
            sizes[entry.name] = _single(entry.name, entry.stat(follow_symlinks=False))
    return sizes


def _open_single(name: str, parent: int) -> int:
    handle = open_regular(name, parent=parent)
    try:
        _single(name, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _single(name: str, found: os.stat_result) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise not_regular(name, "it is a link, a folder, a pipe or a device")
    if found.st_nlink > 1:
        raise not_regular(name, "it is a hard link, so that another name can change it")
    return found.st_size


def _check_manifest_size(size: int) -> None:
    if size > MAX_MANIFEST_BYTES:
        raise UntrustedError(
            f"the manifest has {size} bytes",
            why=f"the limit is {MAX_MANIFEST_BYTES}",
            hint="fetch the bundle again from where it was made",
        )


def _not_a_bundle(path: Path, why: str) -> InvalidError:
    return InvalidError(f"`{path}` is not a bundle", why=why, hint="make one with `tilth import MODEL -o m.tilth`")
