"""Tokens that follow their file while a server runs."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tilth.core.errors import TilthError
from tilth.serve.logs import Log
from tilth.serve.tokens import MAX_FILE_BYTES, TokenFile, parse_tokens, read_guarded

LOOK_S = 0.5

#: Device, inode, size, and when the bytes and the rights of a file last changed, in nanoseconds.
Stamp = tuple[int, ...]
_NEVER: Stamp = ()
_GONE: Stamp = (0,)


class TokenWatch:
    """The token file of a worker, and what was last good of it.

    The good bytes are kept in `folder`, which the workers of a server share: one that replaces another while the file
    is bad goes by the same tokens as the others.
    """

    def __init__(self, path: Path, folder: Path, index: int, log: Log) -> None:
        self._path, self._index, self._log = path, index, log
        self._kept, self._fresh = folder / "tokens", folder / f"tokens-{index}"
        self._seen = self._read = _NEVER
        self._digest = b""
        self._told: tuple[Stamp, str] | None = None

    def begin(self) -> TokenFile:
        """Return the tokens of the file, or those that a worker of this server last found good.

        Raises:
            TilthError: the file is bad and no worker has found it good yet; as `load_tokens`.
        """
        try:
            found = self.look()
        except TilthError as error:
            if not self._kept.exists():
                raise
            self._tell(error)
            found = None
        if found is not None:
            return found
        return parse_tokens(read_guarded(self._kept, MAX_FILE_BYTES), str(self._kept))

    async def follow(self, take: Callable[[TokenFile], None]) -> None:
        """Look twice a second, and hand over the tokens whenever there are others; until cancelled.

        A file that is bad changes nothing, and is told once.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                # Aside: a file system that does not answer must not keep requests waiting.
                found = await asyncio.to_thread(self.look)
            # Whatever it is: without this loop, tokens that are revoked would be good for ever.
            except Exception as error:
                self._tell(error)
                continue
            self._told = None
            if found is not None:
                take(found)
                self._log.write("info", "tokens taken over", worker=self._index, tokens=len(found))

    def look(self) -> TokenFile | None:
        """Return the tokens when the file holds other bytes than at the last look, and None when it does not.

        Raises:
            TilthError: as `load_tokens`: at every look while it cannot be read, once where its bytes are bad.
        """
        before, self._seen = self._seen, _stamp(self._path)
        if self._seen == self._read:
            return None
        stamp, data = self._seen, read_guarded(self._path, MAX_FILE_BYTES)
        # Two writes within a tick of the clock can leave one stamp: what is young is read once more.
        self._read = stamp if stamp == before else _NEVER
        digest = hashlib.sha256(data).digest()
        if digest == self._digest:
            return None
        self._digest = digest
        found = parse_tokens(data, str(self._path))
        self._keep(data)
        return found

    def _keep(self, data: bytes) -> None:
        # A full disk must not keep a token from being revoked.
        with contextlib.suppress(OSError):
            self._fresh.touch(0o600)
            self._fresh.write_bytes(data)
            self._fresh.replace(self._kept)

    def _tell(self, error: Exception) -> None:
        told = self._seen, str(error)
        if told != self._told:
            self._log.write("error", "tokens not taken over", worker=self._index, file=str(self._path), why=told[1])
        self._told = told


def _stamp(path: Path) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return _GONE
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
