"""Structured logs: one JSON object a line, whatever a client sent."""

import itertools
import json
import math
import os
import re
import secrets
from collections.abc import Mapping, Sized
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from typing import Any, TextIO

from tilth.core.errors import InvalidError

LEVELS = ("debug", "info", "warning", "error")
MOST_BYTES = 8192
#: Characters of a text and ten times the items of a list that a line holds, tried in this order until it fits.
_CUTS = (2000, 300, 40)
_DEEPEST = 4
#: ASCII alone: what is not becomes an escape, and so do all control characters, those above 127 included.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_GIVEN = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Log:
    """Writes lines of at least `level` to `stream`, and with `access` a line for every request.

    A line is handed to the operating system at once, so that processes can share a file opened for appending. What
    cannot be written is counted in `lost` and never raised.

    Raises:
        InvalidError: there is no such level.
    """

    def __init__(self, stream: TextIO, level: str = "info", *, access: bool = False) -> None:
        self.access = access
        self.configure(level)
        self.lost = 0
        self._torn = False
        self._stream = stream
        self._file: FileIO | None = None
        # What is not a file, such as `io.StringIO`, has no descriptor and says so in one of these ways.
        with suppress(OSError, ValueError, AttributeError):
            # One of its own: when somebody closes the stream, its number may come to mean a client's socket.
            self._file = open(os.dup(stream.fileno()), "wb", buffering=0)

    def configure(self, level: str, *, access: bool | None = None) -> None:
        """Write lines of at least `level` from here on; `access` None leaves request lines as they are.

        Raises:
            InvalidError: there is no such level.
        """
        if level not in LEVELS:
            raise InvalidError(f"`{level}` is not a level of logs", hint="use " + ", ".join(LEVELS))
        self.level = level
        self._least = LEVELS.index(level)
        if access is not None:
            self.access = access

    def write(self, level: str, event: str, /, **fields: Any) -> None:
        """Write one line; a field that is called like one of the line's own gets a `_` behind its name.

        Raises:
            ValueError: there is no such level.
        """
        if LEVELS.index(level) >= self._least:
            self._put(_line(level, event, fields))

    def request(
        self,
        id: str,
        call: str,
        model: str,
        version: str,
        status: int,
        ms: float,
        bytes_in: int,
        bytes_out: int,
        client: str,
        error: str = "",
    ) -> None:
        """Write a line about a request when `access` is on or `status`, of HTTP, is an error.

        `call` is the path over REST and the name of the call over gRPC.
        """
        failed = status >= 400
        if not (failed or self.access):
            return
        level = "info" if not failed else "warning" if status < 500 else "error"
        fields = {"id": id, "call": call, "model": model, "version": version, "status": status, "ms": round(ms, 3)}
        fields |= {"bytes_in": bytes_in, "bytes_out": bytes_out, "client": client}
        self.write(level, "request", **fields, **({"error": error} if error else {}))

    def close(self) -> None:
        """Give the file back; lines that come later are lost."""
        if self._file is not None:
            self._file.close()

    def _put(self, line: str) -> None:
        if self._file is not None:
            self._put_bytes(self._file, f"\n{line}" if self._torn else line)
            return
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            self.lost += 1

    def _put_bytes(self, file: FileIO, line: str) -> None:
        data, written = memoryview(line.encode()), 0
        with suppress(OSError, ValueError):
            # None: a pipe that does not wait is full.
            while written < len(data) and (more := file.write(data[written:])):
                written += more
        if written:
            # The end of a line that a full disk cut off comes first in the next one.
            self._torn = written < len(data)
        self.lost += written < len(data)


def _line(level: str, event: str, fields: Mapping[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    head = {"time": now.removesuffix("+00:00") + "Z", "level": level, "event": event[:200]}
    named = {f"{name}_" if name in head else name[:100]: value for name, value in fields.items()}
    for cut in _CUTS:
        line = _encode(head | {name: _plain(value, cut, _DEEPEST) for name, value in named.items()})
        if len(line) < MOST_BYTES:
            return f"{line}\n"
    return _encode(head | {"cut": f"{len(fields)} fields are too long for a line"}) + "\n"


def _plain(value: Any, cut: int, depth: int) -> Any:
    """Return `value` as JSON has it, cut to size."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 64 else _short(hex(value), cut)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping) and depth:
        items = itertools.islice(value.items(), cut // 10)
        return {_short(_text(name), cut): _plain(item, cut, depth - 1) for name, item in items} | _rest(value, cut)
    if isinstance(value, list | tuple) and depth:
        return [*(_plain(item, cut, depth - 1) for item in value[: cut // 10]), *_rest(value, cut)]
    return _short(_text(value), cut)


def _rest(value: Sized, cut: int) -> dict[str, str]:
    more = len(value) - cut // 10
    return {f"... {more} more": ""} if more > 0 else {}


def _short(text: str, cut: int) -> str:
    return text if len(text) <= cut else f"{text[:cut]}... {len(text) - cut} more"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # a broken `__str__` must not end a request
        return f"<{type(value).__name__}>"


class _Ids:
    """Numbers behind a prefix that no other process has, a forked one neither."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.prefix = secrets.token_hex(6)
        self.numbers = itertools.count(1)


_ids = _Ids()


def request_id(given: str | None) -> str:
    """Return the client's id where it has 1 to 128 of `A-Z a-z 0-9 . _ : -` and nothing else, or one of our own."""
    if given and _GIVEN.fullmatch(given):
        return given
    return f"{_ids.prefix}-{next(_ids.numbers)}"
