"""Blobs in an object store, by obstore: S3 and what speaks its protocol, Google Cloud Storage, Azure, and memory."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tilth.core.errors import InvalidError, MissingError, UnavailableError

_NAME = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 4 << 20
#: A place that does not answer is given up after this: whoever waits for it can be told.
_RETRIES, _RETRY_S, _CONNECT_S = 3, 15, 5


class ObjectStore:
    """A blob store at an address such as `s3://bucket/prefix`.

    Credentials and the endpoint come from the environment, in each cloud's own variables (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, ...), and are never in the address, which is shown to people.

    Raises:
        InvalidError: there are credentials in the address.
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
        if "@" in urlsplit(address).netloc:
            raise InvalidError(
                "the address of a place for blobs holds credentials",
                why="it is shown to people and written to logs",
                hint="put them into the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        self.place = address
        self._api: Any = obstore
        try:
            options: Any = {"connect_timeout": timedelta(seconds=_CONNECT_S)}
            options |= {"allow_http": True} if address.startswith("s3:") else {}
            retry: Any = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)}
            more = {} if address.startswith("memory:") else {"client_options": options, "retry_config": retry}
            self._store: Any = from_url(address, **more)
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
        if self.size(digest) != path.stat().st_size:
            try:
                self._api.put(self._store, _key(digest), path)
            except Exception as error:
                raise self._failed("written", error) from None
        path.unlink()

    def read(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a blob in blocks."""
        wanted = {}
        if start or end is not None:
            size = self.size(digest)
            if size is None:
                raise _missing(self.place, digest)
            end = size if end is None else min(end, size)
            if start >= end:
                # A store answers a range without a byte in it with an error.
                return
            wanted = {"range": (start, end)}
        try:
            found = self._api.get(self._store, _key(digest), options=wanted)
            for block in found.stream(min_chunk_size=_BLOCK_BYTES):
                data = memoryview(block)
                for at in range(0, len(data), _BLOCK_BYTES):
                    yield bytes(data[at : at + _BLOCK_BYTES])
        except FileNotFoundError:
            raise _missing(self.place, digest) from None
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
                    key = str(found["path"])
                    name = key.rpartition("/")[2]
                    if _NAME.fullmatch(name) and key == _key(name):
                        yield name, int(found["size"])
        except Exception as error:
            raise self._failed("listed", error) from None

    def _failed(self, verb: str, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"blobs at `{self.place}` cannot be {verb}",
            why=f"{type(error).__name__}: {error}".partition("\n")[0][:300],
            hint="check the address and the credentials in the environment",
        )


def _key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _missing(place: str, digest: str) -> MissingError:
    return MissingError(f"blob {digest[:12]} is not there", why=f"`{place}` does not hold it")
