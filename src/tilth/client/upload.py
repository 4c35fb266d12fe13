"""Blobs of an open bundle on their way up: small ones at once, large ones so that a broken upload goes on."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping

from tilth.bridge.container import Container
from tilth.client.blobs import Blobs
from tilth.client.crew import Crew
from tilth.client.errors import AwayError, ConflictError
from tilth.client.parcel import MOST_BLOBS, MOST_BYTES
from tilth.client.patience import Patience
from tilth.client.progress import Progress
from tilth.client.shapes.blob import Upload
from tilth.core.digest import digest as digest_of
from tilth.core.errors import MissingError, TilthError, UntrustedError

#: Up to this size a blob goes in one piece, and again from its beginning when that fails.
SMALL_BYTES = 8 << 20
#: Up to this size it goes together with others: a request and its transaction take longer than its bytes.
TINY_BYTES = 256 << 10
_BLOCK_BYTES = 1 << 20
#: More than what stands before a blob in a parcel.
_HEAD_BYTES = 80


def upload(
    blobs: Blobs, container: Container, manifest: bytes, sizes: Mapping[str, int], progress: Progress, patience_s: float
) -> None:
    """Upload the blobs of `sizes` out of a container; one that it does not have is `manifest`.

    `patience_s` is how long nobody may answer before it gives up. What was sent of large blobs stays.

    Raises:
        UntrustedError: the bundle was changed or damaged.
        AwayError: nobody answers.
        TilthError: as the control plane says.
    """
    parcels = parcelled(sizes)
    jobs = {one: size for one, size in sizes.items() if size > TINY_BYTES}
    jobs |= {one: sum(sizes[name] for name in names) for one, names in parcels.items()}
    crew = Crew("upload", jobs, progress)
    _Uploader(blobs, container, manifest, crew, sizes, parcels, patience_s).run()


def parcelled(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Return which tiny blobs go together, by the first of each parcel."""
    made: list[list[str]] = []
    held = MOST_BYTES
    for name in sorted(one for one, size in sizes.items() if size <= TINY_BYTES):
        cost = sizes[name] + _HEAD_BYTES
        if held + cost > MOST_BYTES or len(made[-1]) >= MOST_BLOBS:
            made.append([])
            held = 0
        made[-1].append(name)
        held += cost
    return {names[0]: names for names in made}


class _Uploader:
    def __init__(
        self,
        blobs: Blobs,
        container: Container,
        manifest: bytes,
        crew: Crew,
        sizes: Mapping[str, int],
        parcels: Mapping[str, list[str]],
        patience_s: float,
    ) -> None:
        self._blobs, self._container, self._manifest = blobs, container, manifest
        self._crew, self._sizes, self._parcels, self._patience_s = crew, sizes, parcels, patience_s

    def run(self) -> None:
        self._crew.run(self._one)

    def _one(self, digest: str) -> None:
        if digest in self._parcels:
            self._parcel(digest)
            return
        size = self._sizes[digest]
        with self._opened(digest) as blob:
            try:
                if size <= SMALL_BYTES:
                    self._small(blob)
                else:
                    self._large(blob)
            except UntrustedError as error:
                raise blob.blamed(error) from None
        self._crew.moved(digest, size)

    def _parcel(self, first: str) -> None:
        read: dict[str, bytes] = {}
        for digest in self._parcels[first]:
            with self._opened(digest) as blob:
                read[digest] = b"".join(blob.blocks(0))
                if (found := digest_of(read[digest])) != digest:
                    raise damaged(digest, found)
        patience = Patience(self._patience_s)
        while True:
            try:
                self._blobs.put_all(read)
                break
            except AwayError as error:
                self._wait(first, 0, patience, error)
        self._crew.moved(first, sum(map(len, read.values())))

    def _small(self, blob: "_Blob") -> None:
        patience = Patience(self._patience_s)
        while True:
            try:
                self._blobs.put(blob.digest, blob.size, blob.blocks(0))
                return
            except AwayError as error:
                self._wait(blob.digest, 0, patience, error)

    def _large(self, blob: "_Blob") -> None:
        patience, before, damaged = Patience(self._patience_s), -1, False
        while True:
            found = self._begun(blob, patience)
            if found.done:
                return
            if found.offset > before >= 0:
                patience.moved()
            again, before = before >= 0, found.offset
            try:
                if again:
                    # An empty piece says for little whether an earlier request still holds the upload.
                    self._blobs.send(found, 0, b"")
                if self._blobs.send(found, blob.size - found.offset, blob.blocks(found.offset)).done:
                    return
            except (AwayError, ConflictError, MissingError) as error:
                self._wait(blob.digest, found.offset, patience, error)
            except UntrustedError:
                # What an earlier push left may be of another file; what is sent from its beginning may not.
                if found.offset == 0 or damaged:
                    raise
                damaged, before = True, -1

    def _begun(self, blob: "_Blob", patience: Patience) -> Upload:
        while True:
            try:
                return self._blobs.begin(blob.digest, blob.size)
            except AwayError as error:
                self._wait(blob.digest, 0, patience, error)

    def _wait(self, name: str, offset: int, patience: Patience, error: TilthError) -> None:
        pause_s = patience.pause_s(error)
        self._crew.moved(name, offset)
        self._crew.wait(pause_s)
        self._crew.moved(name, offset)

    @contextlib.contextmanager
    def _opened(self, digest: str) -> Iterator["_Blob"]:
        if digest not in self._container.sizes:
            yield _Blob(digest, self._manifest, 0, len(self._manifest), self._crew)
            return
        found = self._container.opened(digest)
        # One of its own: the container may be closed while a thread still waits for an answer.
        handle = found.handle if found.owned else os.dup(found.handle)
        try:
            yield _Blob(digest, handle, found.offset, found.size, self._crew)
        finally:
            os.close(handle)


def damaged(digest: str, found: str) -> UntrustedError:
    """Return what is said of a blob here that hashes to something else."""
    return UntrustedError(
        f"blob {digest[:12]} of the bundle holds other bytes",
        why=f"they hash to {found[:12]}: it was damaged, or changed while it was read",
        hint="make the bundle again; `tilth show --verify` checks it",
    )


class _Blob:
    """Bytes at hand or in an open file, read in blocks from anywhere."""

    def __init__(self, digest: str, source: bytes | int, start: int, size: int, crew: Crew) -> None:
        self.digest, self.size = digest, size
        self._source, self._start, self._crew = source, start, crew

    def blocks(self, offset: int) -> Iterator[bytes]:
        """Yield what is behind `offset`; the crew is told how far it is, and can stop it."""
        while offset < self.size:
            self._crew.moved(self.digest, offset)
            block = self._block(offset)
            offset += len(block)
            yield block

    def blamed(self, error: UntrustedError) -> UntrustedError:
        """Return what is said of bytes that were not taken: whether they are wrong here, or were changed on the way."""
        state, offset = hashlib.sha256(), 0
        while offset < self.size:
            block = self._block(offset)
            state.update(block)
            offset += len(block)
        if state.hexdigest() == self.digest:
            return error
        return damaged(self.digest, state.hexdigest())

    def _block(self, offset: int) -> bytes:
        if isinstance(self._source, bytes):
            return self._source[offset : offset + _BLOCK_BYTES]
        found = os.pread(self._source, min(_BLOCK_BYTES, self.size - offset), self._start + offset)
        if not found:
            raise UntrustedError(
                f"blob {self.digest[:12]} of the bundle ends {self.size - offset} bytes too early",
                why="the file was cut short, or changed while it was read",
                hint="push it again when nobody writes to it",
            )
        return found
