"""What was measured before, in the user's cache folder: by graph, chip, engine versions and settings."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tilth.core.digest import canonical_json, digest

VARIABLE = "TILTH_CACHE"


def cache_folder() -> Path:
    """Return the cache folder: `$TILTH_CACHE`, else `tilth` in the user's cache folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilth"


def key(facts: Any) -> str:
    """Return the key of facts, a JSON value."""
    return digest(canonical_json(facts))


class Cache:
    """Small JSON records and blobs below one folder. A record that cannot be read counts as absent.

    A `fresh` cache knows nothing of earlier processes, and remembers what this one puts in.
    """

    def __init__(self, folder: Path | None = None, *, fresh: bool = False) -> None:
        self._folder = folder or cache_folder()
        self._fresh = fresh
        self._put: set[str] = set()

    def get(self, name: str) -> Any | None:
        """Return the record, or None."""
        if self._fresh and name not in self._put:
            return None
        try:
            return json.loads(self._path(name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def put(self, name: str, value: Any) -> None:
        """Store a record; a full or unwritable disk only means that it will be measured again."""
        self._put.add(name)
        _write(self._path(name), canonical_json(value))

    def blob(self, name: str) -> bytes | None:
        """Return stored bytes when they still hash to `name`, else None."""
        try:
            data = (self._folder / "blobs" / name).read_bytes()
        except OSError:
            return None
        return data if digest(data) == name else None

    def put_blob(self, name: str, data: bytes) -> None:
        """Store bytes under their digest, over what may be there: it may be damaged."""
        _write(self._folder / "blobs" / name, data)

    def clear(self) -> None:
        """Remove everything that was measured."""
        for part in ("search", "blobs"):
            shutil.rmtree(self._folder / part, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / "search" / f"{name}.json"


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError:
        return
