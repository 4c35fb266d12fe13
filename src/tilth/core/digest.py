"""Names for bytes: SHA-256 digests and the one JSON form that is hashed."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tilth.core.errors import UntrustedError

_HEX = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20


def digest(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()


def checked_digest(text: object) -> str:
    """Return `text` when it has the exact form of a digest.

    Raises:
        UntrustedError: it is not 64 lower-case hex digits; such a name could point anywhere.
    """
    if isinstance(text, str) and _HEX.fullmatch(text):
        return text
    raise UntrustedError(
        f"`{str(text)[:80]}` is not a digest",
        why="a blob is named by 64 lower-case hex digits and nothing else",
        hint="the bundle was altered or is not a bundle; fetch it again from where it was made",
    )


def canonical_json(value: Any) -> bytes:
    """Return the one UTF-8 form of a JSON value: keys sorted, no spaces, no NaN, one line feed at the end.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON cannot say.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
