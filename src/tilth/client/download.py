"""Blobs on their way down: into files by digest, hashed as they come, from where an earlier download stopped."""

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tilth.client.blobs import Blobs
from tilth.client.crew import Crew
from tilth.client.errors import AwayError
from tilth.client.patience import Patience
from tilth.client.progress import Progress
from tilth.core.errors import UntrustedError

_BLOCK_BYTES = 1 << 20
_PART = ".part"


def fetch(blobs: Blobs, digest: str, most_bytes: int, patience_s: float) -> bytes:
    """Return a small blob, verified.

    Raises:
        UntrustedError: it holds other bytes, or more than `most_bytes`.
        AwayError: nobody answered for `patience_s`.
    """
    patience = Patience(patience_s)
    while True:
        made = bytearray()
        try:
            for block in blobs.read(digest):
                made += block
                if len(made) > most_bytes:
                    raise UntrustedError(f"blob {digest[:12]} is too large", why=f"more than {most_bytes} bytes came")
            break
        except AwayError as error:
            time.sleep(patience.pause_s(error))
    found = hashlib.sha256(made).hexdigest()
    if found != digest:
        raise _other(digest, found)
    return bytes(made)


def download(blobs: Blobs, folder: Path, sizes: Mapping[str, int], progress: Progress, patience_s: float) -> None:
    """Bring the blobs of `sizes` into `folder`, each as a file named by its digest.

    Files that are there whole stay. Interrupted, it leaves what came, and goes on there the next time.

    Raises:
        UntrustedError: a blob holds other bytes, also when it was asked for again.
        MissingError: the project does not have it.
        AwayError: nobody answered for `patience_s`.
    """
    crew = Crew("download", sizes, progress)
    crew.run(_Downloader(blobs, folder, crew, sizes, patience_s).one)


def left_bytes(folder: Path, sizes: Mapping[str, int]) -> int:
    """Return how many bytes have yet to come."""
    here = 0
    for digest, size in sizes.items():
        for path in (folder / digest, folder / f"{digest}{_PART}"):
            if path.is_file():
                here += min(size, path.stat().st_size)
                break
    return sum(sizes.values()) - here


def is_ours(name: str, sizes: Mapping[str, int]) -> bool:
    """Return whether a name in the folder is one of these blobs, whole or not."""
    return name.removesuffix(_PART) in sizes


class _Downloader:
    def __init__(self, blobs: Blobs, folder: Path, crew: Crew, sizes: Mapping[str, int], patience_s: float) -> None:
        self._blobs, self._folder, self._crew = blobs, folder, crew
        self._sizes, self._patience_s = sizes, patience_s

    def one(self, digest: str) -> None:
        target, size = self._folder / digest, self._sizes[digest]
        if not target.is_file() or target.stat().st_size != size:
            part = self._folder / f"{digest}{_PART}"
            with part.open("a+b") as file:
                self._verified(file, digest, size)
            part.replace(target)
        self._crew.moved(digest, size)

    def _verified(self, file: IO[bytes], digest: str, size: int) -> None:
        for last in (False, True):
            state = self._known(file, size)
            self._fill(file, state, digest, size)
            if state.hexdigest() == digest:
                return
            # What an earlier download left may be damaged; what comes in one piece from its beginning may not.
            file.truncate(0)
            if last:
                raise _other(digest, state.hexdigest())

    def _known(self, file: IO[bytes], size: int) -> Any:
        """Return the state of the hash behind what is there."""
        state = hashlib.sha256()
        if os.fstat(file.fileno()).st_size > size:
            file.truncate(0)
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            state.update(block)
        return state

    def _fill(self, file: IO[bytes], state: Any, digest: str, size: int) -> None:
        patience, offset = Patience(self._patience_s), os.fstat(file.fileno()).st_size
        while offset < size:
            before = offset
            try:
                for block in self._blobs.read(digest, offset):
                    offset += len(block)
                    if offset > size:
                        raise UntrustedError(f"blob {digest[:12]} does not end", why=f"more than {size} bytes came")
                    state.update(block)
                    file.write(block)
                    self._crew.moved(digest, offset)
                if offset < size:
                    raise AwayError(f"blob {digest[:12]} ended too early", why=f"{offset} of {size} bytes came")
            except AwayError as error:
                if offset > before:
                    patience.moved()
                self._crew.wait(patience.pause_s(error))
                self._crew.moved(digest, offset)
        file.flush()


def _other(digest: str, found: str) -> UntrustedError:
    return UntrustedError(
        f"blob {digest[:12]} holds other bytes",
        why=f"what came hashes to {found[:12]}",
        hint="is something in between that changes answers? on the control plane, `tilth events` may say more",
    )
