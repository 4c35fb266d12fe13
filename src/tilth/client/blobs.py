"""Blobs of a project: looked for, uploaded in one piece or in several, and downloaded."""

import re
from collections.abc import Iterable, Iterator, Mapping

from tilth.client.answer import check, check_plain, whole
from tilth.client.errors import AwayError
from tilth.client.noun import Noun
from tilth.client.parcel import KIND, packed
from tilth.client.shapes.blob import Check, Missing, NewUpload, Upload
from tilth.client.wire import made
from tilth.core.errors import MissingError, UnavailableError

#: A disk that is busy takes a while for the last bytes; at this pace it is waited for.
_SLOW_BYTES_PER_S, _LAST_S = 50e6, 60.0
_AT_A_TIME = 10_000
_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/[0-9]{1,15}")
_BYTES = {"Content-Type": "application/octet-stream"}


class Blobs(Noun):
    """Bytes by digest. `Client.push` and `Client.pull` do with them what bundles need.

    Every method raises TilthError as the control plane says.
    """

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Return those that the project does not have."""
        wanted, found = list(dict.fromkeys(digests)), set[str]()
        for start in range(0, len(wanted), _AT_A_TIME):
            order = made(Check, digests=wanted[start : start + _AT_A_TIME])
            found.update(self.wire.post(Missing, self._in("blobs", "missing"), order).missing)
        return found

    def size(self, digest: str) -> int | None:
        """Return the bytes of a blob, None when the project does not have it."""
        try:
            return self.wire.get(Upload, self._in("blobs", digest, "size")).size_bytes
        except MissingError:
            return None

    def put(self, digest: str, size_bytes: int, blocks: Iterator[bytes] | bytes) -> None:
        """Upload a blob in one piece, once; what a broken connection leaves is thrown away."""
        headers = _BYTES | {"Content-Length": str(size_bytes)}
        path = self._in("blobs", digest)
        with self.wire.opened("PUT", path, headers, content=blocks, limit_s=_limit_s(size_bytes)) as answer:
            whole(answer)

    def put_all(self, blobs: Mapping[str, bytes]) -> None:
        """Upload small blobs, by their digests, in one request: 8 MiB together at most."""
        body = packed(blobs)
        headers = {"Content-Type": KIND, "Content-Length": str(len(body))}
        with self.wire.opened("PUT", self._in("blobs"), headers, content=body, limit_s=_limit_s(len(body))) as answer:
            whole(answer)

    def begin(self, digest: str, size_bytes: int) -> Upload:
        """Begin an upload, or find the one that was begun; one that is `done` has nothing left to send."""
        return self.wire.post(Upload, self._in("uploads"), made(NewUpload, digest=digest, size_bytes=size_bytes))

    def upload(self, upload_id: str) -> Upload:
        """Return how much of an upload is there."""
        return self.wire.get(Upload, self._in("uploads", upload_id))

    def send(self, upload: Upload, size_bytes: int, blocks: Iterator[bytes] | bytes) -> Upload:
        """Send `size_bytes` more of an upload from its offset on, once; what comes stays when the connection breaks.

        Raises:
            ConflictError: its offset is elsewhere, or another request is sending it.
        """
        headers = _BYTES | {"Content-Length": str(size_bytes), "Upload-Offset": str(upload.offset)}
        path = self._in("uploads", upload.id)
        with self.wire.opened("PATCH", path, headers, content=blocks, limit_s=_limit_s(upload.size_bytes)) as answer:
            return whole(answer).as_(Upload)

    def give_up(self, upload_id: str) -> None:
        """Throw away what is there of an upload."""
        self.wire.remove(self._in("uploads", upload_id))

    def read(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` on, as they come: whoever takes them hashes them.

        Raises:
            AwayError: they ended too early; go on from where they did.
        """
        headers = {"Accept": "*/*"} | ({"Range": f"bytes={start}-"} if start else {})
        with self.wire.opened("GET", self._in("blobs", digest), headers) as answer:
            check(answer)
            check_plain(answer)
            if start:
                found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
                if answer.status_code != 206 or found is None or int(found[1]) != start:
                    raise UnavailableError(
                        f"`{self.wire.origin}` does not send parts of blobs",
                        why=f"it was asked for bytes from {start} on and answered with status {answer.status_code}",
                        hint="is something in between that leaves out headers?",
                    )
            length = answer.headers.get("content-length", "")
            came = 0
            for block in answer.iter_raw():
                came += len(block)
                yield block
            if length.isdecimal() and came < int(length):
                raise AwayError(f"blob {digest[:12]} ended too early", why=f"{came} of {length} bytes came")


def _limit_s(size_bytes: int) -> float:
    return _LAST_S + size_bytes / _SLOW_BYTES_PER_S
