"""Several small blobs in one body: for each a line `DIGEST SIZE`, then its bytes; pure."""

import re
from collections.abc import Mapping

from tilth.core.digest import digest as digest_of
from tilth.core.errors import InvalidError, UntrustedError

MOST_BLOBS, MOST_BYTES = 1000, 8 << 20
KIND = "application/vnd.tilth.blobs"
_HEAD = re.compile(rb"([0-9a-f]{64}) (0|[1-9][0-9]{0,7})\n")


def packed(blobs: Mapping[str, bytes]) -> bytes:
    """Return blobs, by their digests, as one body."""
    return b"".join(part for name, data in blobs.items() for part in (f"{name} {len(data)}\n".encode(), data))


def unpacked(body: bytes) -> dict[str, bytes]:
    """Return the blobs of a body by digest, each checked against it.

    Raises:
        InvalidError: it is not built so, holds too many, or one of them twice.
        UntrustedError: a blob holds other bytes than its digest says.
    """
    found: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        head = _HEAD.match(body, at)
        if head is None:
            raise _invalid(f"no line `DIGEST SIZE` stands at byte {at}")
        name, start = head[1].decode(), head.end()
        at = start + int(head[2])
        if at > len(body):
            raise _invalid(f"blob {name[:12]} ends behind the end")
        if name in found or len(found) >= MOST_BLOBS:
            raise _invalid(f"it holds blob {name[:12]} twice, or more than {MOST_BLOBS} blobs")
        found[name] = body[start:at]
        if (real := digest_of(found[name])) != name:
            raise UntrustedError(f"blob {name[:12]} holds other bytes", why=f"they hash to {real[:12]}")
    if not found:
        raise _invalid("it is empty")
    return found


def _invalid(why: str) -> InvalidError:
    return InvalidError(
        "the body does not hold blobs", why=why, hint="for each blob: a line with its digest and size, then its bytes"
    )
