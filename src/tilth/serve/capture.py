"""Chosen requests and their answers kept as files, within a budget of bytes."""

import errno
import itertools
import json
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.disk import clear_errors, discard, new_file
from tilth.bridge.value_file import MOST_ARRAYS, write_values
from tilth.core.errors import InvalidError, RefusedError
from tilth.ports.arrays import Array, Value, Values

#: A request that takes more is passed over; it would fill a budget, and memory while text is laid out.
MOST_BYTES = 64 << 20
#: The folder is measured again after so many files, because other processes write in it, too.
_MEASURE_EVERY = 100
#: What a file takes beside its arrays, and each array beside its numbers: about, and rather more than less.
_FILE_BYTES, _ARRAY_BYTES = 512, 512
_LEFTOVER_S = 600.0


class Capture:
    """Keeps a `share`, 0 to 1, of requests in `folder` until what lies there takes `budget_bytes`; deletes none.

    Make it after a fork: processes with the same `seed`, or the same state, choose alike. Several processes may write
    in one folder, and together they go beyond the budget by at most what each writes between two measurements.
    `stopped` says why nothing is kept any more; `say` hears it once. `skipped` counts requests that were passed over.

    Raises:
        InvalidError: `share` or `budget_bytes` is out of range.
        RefusedError: others can write in the folder.
        MissingError: the folder above is not there.
        UnavailableError: the folder cannot be made or read.
    """

    def __init__(
        self,
        folder: Path,
        share: float,
        budget_bytes: int,
        seed: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if not 0 <= share <= 1 or budget_bytes < 0:
            raise InvalidError(
                f"a share of `{share}` within `{budget_bytes}` bytes cannot be kept",
                hint="give a share from 0 to 1 and a budget of at least 0 bytes",
            )
        self.stopped = ""
        self.skipped = 0
        self._folder, self._share, self._budget = folder, share, budget_bytes
        self._say = say or (lambda _: None)
        self._chance = random.Random(seed).random  # noqa: S311  nobody gains by guessing it
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        with clear_errors(folder, 0):
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_private(folder)
            _sweep(folder)
            self._used = _size(folder)

    def wants(self) -> bool:
        """Return whether to keep the request at hand."""
        return self._chance() < self._share and not self.stopped

    def keep(
        self, model: str, version: str, request_id: str, inputs: Values, outputs: Values, note: Mapping[str, Any]
    ) -> bool:
        """Write a request and its answer; return whether they are kept. Nothing is ever raised.

        It blocks for as long as the disk takes. The file has the arrays under `in.` and `out.` and their names, for
        `tilth.bridge.value_file.read_values`; the line in the index has the rest. They are not flushed to the disk.
        """
        if self.stopped:
            return False
        try:
            return self._keep({"model": model, "version": version, "request": request_id}, inputs, outputs, note)
        except OSError as error:
            self._stop(f"`{self._folder}` cannot be written: {error.strerror or error}")
        except Exception:  # values that no file can hold, and whatever else a client's names and numbers lead to
            self.skipped += 1
        return False

    def _keep(self, about: dict[str, Any], inputs: Values, outputs: Values, note: Mapping[str, Any]) -> bool:
        values = {f"in.{name}": value for name, value in inputs.items()}
        values |= {f"out.{name}": value for name, value in outputs.items()}
        number, now = next(self._numbers), datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z-{os.getpid()}-{number}.npz"
        about |= {"file": name, "time": now.isoformat(timespec="milliseconds"), "note": note}
        line = json.dumps(about, default=str, allow_nan=False).encode() + b"\n"
        size = len(line) + _FILE_BYTES + sum(itertools.starmap(_stored_bytes, values.items()))
        if size > MOST_BYTES:
            self.skipped += 1
        elif self._has_room(size, number):
            taken = 0
            try:
                taken = len(line) + self._write(name, values)
                self._index(line)
            finally:
                with self._lock:
                    self._used += taken - size
            return True
        return False

    def _has_room(self, size: int, number: int) -> bool:
        with self._lock:
            if number % _MEASURE_EVERY == 0:
                self._used = _size(self._folder)
            if not self.stopped and self._used + size <= self._budget:
                self._used += size
                return True
        self._stop(f"the budget of {self._budget} bytes in `{self._folder}` is used up")
        return False

    def _write(self, name: str, values: Values) -> int:
        made = self._folder / f".{name}.tmp"
        try:
            new_file(made).close()
            write_values(made, values)
            made.rename(self._folder / name)
            return (self._folder / name).stat().st_size
        finally:
            discard(made)

    def _index(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._folder / f"index-{os.getpid()}.jsonl", flags, 0o600)
        try:
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)

    def _stop(self, why: str) -> None:
        with self._lock:
            first, self.stopped = not self.stopped, self.stopped or why
        if first:
            with suppress(Exception):
                self._say(why)


def _stored_bytes(name: str, value: Value) -> int:
    pieces = [value] if isinstance(value, np.ndarray) or np.isscalar(value) else list(value or ())
    if len(pieces) > MOST_ARRAYS:
        raise ValueError(f"no file of more than {MOST_ARRAYS} arrays can be read")
    return sum(_ARRAY_BYTES + 8 * len(name) + _array_bytes(np.asarray(piece)) for piece in pieces)


def _array_bytes(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    # Text is laid out at the width of the longest, 4 bytes a character: one long among many short is a bomb.
    return 4 * array.size * max((len(str(text)) for text in array.ravel()), default=0)


def _check_private(folder: Path) -> None:
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(
            f"nothing is captured in `{folder}`",
            why=f"others can write in it: its mode is {stat.S_IMODE(mode):o}",
            hint=f"name a folder that is not there yet, such as `{folder / 'captured'}`; it is made for you alone",
        )


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for path in folder.glob(".*.npz.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > _LEFTOVER_S:
                discard(path)


def _size(folder: Path) -> int:
    found = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found += entry.stat(follow_symlinks=False).st_size
    return found
