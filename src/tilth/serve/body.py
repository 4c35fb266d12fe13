"""Bodies of HTTP requests and answers that are compressed; pure."""

import zlib

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.serve.failure import TooLargeError

#: `wbits` of zlib: with a gzip header, and with a zlib header.
_WBITS = {"gzip": 31, "deflate": 15}
#: Below this size compressing an answer costs more than it saves.
_WORTH_BYTES = 1024


def unpacked(body: bytes | bytearray | memoryview, encoding: str, limit: int) -> bytes:
    """Return a body that came with this `Content-Encoding`, at most `limit` bytes.

    Raises:
        TooLargeError: it is more.
        InvalidError: it is not packed so, or ends early.
        UnsupportedError: nobody here knows the encoding.
    """
    wbits = _WBITS.get(encoding.lower())
    if wbits is None:
        raise UnsupportedError(f"`Content-Encoding: {encoding[:40]}` is not known", why="known: gzip, deflate")
    machine = zlib.decompressobj(wbits)
    try:
        found = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidError(f"the body is not {encoding}", why=str(error)[:100]) from None
    if len(found) > limit or machine.unconsumed_tail:
        raise too_large(limit)
    if not machine.eof:
        raise InvalidError(f"the {encoding} body ends early")
    return found


def packed(body: bytes, accepted: str | None) -> tuple[bytes, str]:
    """Return an answer's body as the client takes it, and its `Content-Encoding`, empty for none."""
    if not accepted or len(body) < _WORTH_BYTES:
        return body, ""
    names = {part.split(";")[0].strip().lower() for part in accepted.split(",") if "q=0" not in part.replace(" ", "")}
    for name, wbits in _WBITS.items():
        if name in names:
            machine = zlib.compressobj(1, zlib.DEFLATED, wbits)
            return machine.compress(body) + machine.flush(), name
    return body, ""


def too_large(limit: int) -> TooLargeError:
    """Return the refusal of a body of more than `limit` bytes."""
    return TooLargeError(
        "the body is too large", why=f"at most {limit} bytes are read", hint="send fewer rows, or raise --max-body"
    )
