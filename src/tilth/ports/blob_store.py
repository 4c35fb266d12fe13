"""What a place for blobs must offer: bytes by digest, there whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class BlobStore(Protocol):
    """Bytes named by their SHA-256. What `adopt` has returned from survives a power cut.

    A digest is checked by the caller to be 64 lower-case hex digits. Every method raises UnavailableError when the
    place cannot be reached or has no room.
    """

    #: For people: where the blobs are, without credentials.
    place: str

    def size(self, digest: str) -> int | None:
        """Return the bytes of a blob, None when it is not there."""
        ...

    def adopt(self, path: Path, digest: str) -> None:
        """Take over a local file whose bytes hash to `digest`; the file is gone after that.

        A blob that is there already stays as it is; one of another size is replaced. After an error the file may be
        gone: bytes that a disk failed to keep are not offered to it again.
        """
        ...

    def read(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` to before `end`, in blocks of at most 4 MiB, as they are.

        Behind the end of the blob is nothing.

        Raises:
            MissingError: there is no such blob.
        """
        ...

    def drop(self, digest: str) -> None:
        """Remove a blob; one that is not there is no error."""
        ...

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield digest and size of every blob."""
        ...
