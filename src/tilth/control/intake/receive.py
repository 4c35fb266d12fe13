"""Bytes as they come: into a file, hashed on the way, and into the blob store when they are what they should be.

Receiving goes on while a thread hashes and writes what came before, so that neither waits for the other.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tilth.bridge.disk import new_file
from tilth.client.errors import ConflictError
from tilth.core.digest import digest_file
from tilth.core.errors import InvalidError, UnavailableError, UntrustedError

_BLOCK_BYTES = 1 << 20
#: Received and not written yet; then the sender waits.
_MOST_HELD_BYTES = 8 << 20
#: Less than IOV_MAX of every system.
_MOST_AT_ONCE = 512
#: What stays free on the disk of uploads: the store must be able to write.
_SPARE_BYTES = 64 << 20


class Landing:
    """Files of blobs on their way, one for each upload, in `folder`.

    One upload is written by one request at a time, of one process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._busy: set[str] = set()

    def path(self, upload_id: str) -> Path:
        """Return where the bytes of an upload are; the id is one that was made here."""
        return self._folder / upload_id

    def offset(self, upload_id: str) -> int:
        """Return how many bytes of an upload are here."""
        try:
            return self.path(upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def check_room(self, size_bytes: int) -> None:
        """Return when there is room for so many more bytes.

        Raises:
            UnavailableError: there is not.
        """
        free = shutil.disk_usage(self._folder).free
        if free < size_bytes + _SPARE_BYTES:
            raise UnavailableError(
                "there is no room for the upload",
                why=f"it has {size_bytes} bytes, and {max(0, free - _SPARE_BYTES)} are free for uploads",
                hint="make room on the disk of the control plane's home",
            )

    @contextlib.contextmanager
    def held(self, upload_id: str) -> Iterator[None]:
        """Keep other requests away from an upload.

        Raises:
            ConflictError: another request writes it.
        """
        if upload_id in self._busy:
            raise ConflictError("another request is sending this upload", hint="wait for its end, and read the offset")
        self._busy.add(upload_id)
        try:
            yield
        finally:
            self._busy.discard(upload_id)

    async def take(
        self, upload_id: str, digest: str, size_bytes: int, offset: int, blocks: AsyncIterator[bytes]
    ) -> bool:
        """Write blocks behind `offset`, and return whether the upload is whole, and what its digest says.

        What came stays when the sender goes away. The caller holds the upload.

        Raises:
            ConflictError: `offset` is not where the upload is.
            InvalidError: more comes than was announced.
            UntrustedError: all is here, and hashes to something else; the upload is gone.
            UnavailableError: the disk is full.
        """
        here = self.offset(upload_id)
        if offset != here:
            raise ConflictError(f"the upload is at offset {here}", why=f"the request begins at {offset}")
        writer = _Writer(self.path(upload_id), offset, size_bytes)
        try:
            await writer.all_of(blocks)
        finally:
            await asyncio.to_thread(writer.close)
        if self.offset(upload_id) < size_bytes:
            return False
        found = writer.digest if offset == 0 else await asyncio.to_thread(digest_file, self.path(upload_id))
        if found != digest:
            self.remove(upload_id)
            raise UntrustedError(
                f"blob {digest[:12]} holds other bytes",
                why=f"they hash to {found[:12]}",
                hint="send it again from its beginning; was the file changed meanwhile?",
            )
        return True

    def write(self, upload_id: str, data: bytes) -> None:
        """Write bytes that are here already, in one piece. The caller holds the upload.

        Raises:
            UnavailableError: the disk is full.
        """
        try:
            with new_file(self.path(upload_id)) as file:
                file.write(data)
        except OSError as error:
            raise _full(error) from None

    def remove(self, upload_id: str) -> None:
        """Remove what is here of an upload."""
        self.path(upload_id).unlink(missing_ok=True)

    def sweep(self, known: set[str], older_than_s: float, now_s: float) -> None:
        """Remove files of no known upload that nobody wrote to for a while."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in known | self._busy and path.stat().st_mtime < now_s - older_than_s:
                    path.unlink()


class _Writer:
    def __init__(self, path: Path, offset: int, size_bytes: int) -> None:
        self._left = size_bytes - offset
        self._state = hashlib.sha256()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise _full(error) from None

    @property
    def digest(self) -> str:
        return self._state.hexdigest()

    async def all_of(self, blocks: AsyncIterator[bytes]) -> None:
        held: list[bytes] = []
        size = 0
        writing: asyncio.Future[None] | None = None
        try:
            async for block in blocks:
                held.append(block)
                size += len(block)
                self._left -= len(block)
                if self._left < 0:
                    raise InvalidError("more was sent than announced", why="the upload has the size that was announced")
                if size >= _MOST_HELD_BYTES and writing is not None:
                    await writing
                if size >= _BLOCK_BYTES and (writing is None or writing.done()):
                    if writing is not None:
                        writing.result()
                    writing = asyncio.ensure_future(asyncio.to_thread(self._write, held))
                    held, size = [], 0
        finally:
            if writing is not None:
                await writing
            if held and self._left >= 0:
                await asyncio.to_thread(self._write, held)

    def _write(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._state.update(block)
        try:
            for start in range(0, len(blocks), _MOST_AT_ONCE):
                self._put(blocks[start : start + _MOST_AT_ONCE])
        except OSError as error:
            raise _full(error) from None

    def _put(self, blocks: list[bytes]) -> None:
        written = os.writev(self._file, blocks)
        if written < sum(map(len, blocks)):
            rest = memoryview(b"".join(blocks))[written:]
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        os.close(self._file)


def _full(error: OSError) -> UnavailableError:
    return UnavailableError(
        "the upload cannot be written",
        why=error.strerror or str(error),
        hint="make room on the disk of the control plane's home; what came before stays",
    )
