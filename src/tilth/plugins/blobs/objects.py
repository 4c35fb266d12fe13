"""Blobs in an object store, by obstore: S3 and what speaks its protocol, Google Cloud Storage, Azure, and memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.core.errors import MissingError, UnavailableError

_BLOCK_BYTES = 4 << 20


class ObjectStore:
    """A blob store at an address such as `s3://bucket/prefix`.

    Credentials and the endpoint come from the environment, in each cloud's own variables (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, ...), and are never in the address, which is shown to people.

    Raises:
        UnavailableError: the address is not understood, or obstore is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise UnavailableError(
                f"blobs cannot be kept at `{address}`",
                why="obstore is not installed",
                hint="pip install 'tilth[control]'",
            ) from None
        self.place = address
        self._api: Any = obstore
        try:
            options = {"allow_http": True} if address.startswith("s3:") else {}
            self._store: Any = from_url(address, client_options=options)
        except Exception as error:
            raise self._failed("used", error) from None

    def size(self, digest: str) -> int | None:
        """Return the bytes of a blob, None when it is not there."""
        try:
            return int(self._api.head(self._store, _key(digest))["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("read", error) from None

    def adopt(self, path: Path, digest: str) -> None:
        """Upload a file; the store shows it when it is whole."""
        if self.size(digest) is None:
            try:
                self._api.put(self._store, _key(digest), path)
            except Exception as error:
                raise self._failed("written", error) from None
        path.unlink()

    def read(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a blob in blocks."""
        if end is not None and end <= start:
            return
        wanted = {"range": (start, end)} if end is not None else {"range": {"offset": start}} if start else {}
        try:
            found = self._api.get(self._store, _key(digest), options=wanted)
            for block in found.stream(min_chunk_size=_BLOCK_BYTES):
                yield bytes(block)
        except FileNotFoundError:
            raise MissingError(f"blob {digest[:12]} is not there", why=f"`{self.place}` does not hold it") from None
        except Exception as error:
            raise self._failed("read", error) from None

    def drop(self, digest: str) -> None:
        """Remove a blob."""
        try:
            self._api.delete(self._store, _key(digest))
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("removed", error) from None

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield digest and size of every blob."""
        try:
            for batch in self._api.list(self._store, "blobs"):
                for found in batch:
                    name = str(found["path"]).rpartition("/")[2]
                    if len(name) == 64:
                        yield name, int(found["size"])
        except Exception as error:
            raise self._failed("listed", error) from None

    def _failed(self, verb: str, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"blobs at `{self.place}` cannot be {verb}",
            why=f"{type(error).__name__}: {error}"[:300],
            hint="check the address and the credentials in the environment",
        )


def _key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"
