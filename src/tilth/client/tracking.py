"""Models that were logged at a tracking server: found, downloaded, and told of in the words of a lineage."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from tilth.client import answer as answers
from tilth.client.wire import Wire
from tilth.core.errors import InvalidError, MissingError, RefusedError, UnavailableError
from tilth.ports.tracker import TrackedModel, Tracker

_MOST_ASKED, _MOST_READ = 16 << 20, 1 << 20
_MOST_BYTES = 1 << 40
_MOST_NOTE = 4000
#: Gets how many bytes of a model are there.
Moved = Callable[[int], None]


class Tracking:
    """A tracking server at `url`, where a token of the control plane opens it.

    Raises:
        TilthError: as `Wire`.
    """

    def __init__(self, tracker: Tracker, url: str, token: str, *, ca: str = "", insecure: bool = False) -> None:
        parts = urlsplit(url)
        self.tracker, self._prefix = tracker, quote(parts.path.rstrip("/"))
        self._wire = Wire(f"{parts.scheme}://{parts.netloc}", token, ca=ca or None, insecure=insecure)

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def find(self, run: str, path: str) -> TrackedModel:
        """Return a model that a run has logged; raises as `Tracker.find`, and as `Wire.get` does."""
        try:
            return self.tracker.find(self._ask, self._read, run, path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnavailableError(
                "the tracking server's answer is not understood",
                why=f"{type(error).__name__}: {error}"[:300],
                hint="is it of a version that this installation knows?",
            ) from None

    def download(self, model: TrackedModel, folder: Path, moved: Moved) -> None:
        """Bring a model's files into `folder`, which is empty, under their own paths.

        They are not verified: a tracking server keeps no digests of them.

        Raises:
            InvalidError: a path leaves the folder.
            UnavailableError: a file does not end where it was said to, or there is no room for it.
            TilthError: as `Wire.get`.
        """
        whole = 0
        for file in model.files:
            target = (folder / file.path).absolute()
            if ".." in target.parts or folder.absolute() not in target.parents:
                raise InvalidError("the model is not downloaded", why=f"file `{file.path[:120]}` lies outside of it")
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with self._opened(file.where, {}) as answer, target.open("xb") as made:
                    for block in answer.iter_raw(1 << 20):
                        made.write(block)
                        whole += len(block)
                        if made.tell() > (file.size_bytes or _MOST_BYTES):
                            raise UnavailableError(
                                f"`{file.path}` does not end", why=f"more than {made.tell()} bytes came"
                            )
                        moved(whole)
                    if file.size_bytes and made.tell() != file.size_bytes:
                        raise UnavailableError(f"`{file.path}` ended too early", why=f"{made.tell()} bytes came")
            except OSError as error:
                raise UnavailableError("the model cannot be downloaded", why=str(error), hint="set TMPDIR") from None

    def _ask(self, path: str, query: Mapping[str, str]) -> Any:
        with self._opened(path, query) as answer:
            return json.loads(answers.read(answer, _MOST_ASKED))

    def _read(self, path: str) -> bytes:
        with self._opened(path, {}) as answer:
            return answers.read(answer, _MOST_READ)

    @contextlib.contextmanager
    def _opened(self, path: str, query: Mapping[str, str]) -> Iterator[httpx.Response]:
        with self._wire.opened("GET", f"{self._prefix}/{path}", {}, query=query) as answer:
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if answer.status_code >= 400 and kind == "application/json":
                raise _told(answer.status_code, answers.read(answer, _MOST_READ))
            answers.check(answer)
            yield answer


def notes(name: str, model: TrackedModel) -> dict[str, str]:
    """Return what a bundle notes of a model's run; those that begin with `lineage.` are what a push tells by default.

    `lineage.run` is `NAME:RUN_ID`, `lineage.data` a JSON list, `lineage.code` a commit; `run.` is for people.
    """
    run, finite = model.run, {key: value for key, value in model.run.metrics.items() if math.isfinite(value)}
    made = {"lineage.run": f"{name}:{run.id}", "lineage.data": json.dumps(list(run.data)), "lineage.code": run.code}
    made |= {"run.model": model.name, "run.flavour": model.flavour, "run.name": run.name}
    made |= {"run.parent": f"{name}:{run.parent}" if run.parent else ""}
    made |= {"run.params": json.dumps(dict(run.params)), "run.metrics": json.dumps(finite)}
    return {key: value for key, value in made.items() if value not in ("", "[]", "{}") and len(value) <= _MOST_NOTE}


def _told(status: int, data: bytes) -> Exception:
    """Return what a tracking server says of a request that it refuses."""
    with contextlib.suppress(ValueError):
        told = json.loads(data)
        why = str(told.get("message", ""))[:300] if isinstance(told, dict) else ""
        if status == 404:
            return MissingError("the tracking server has no such thing", why=why, hint="check the run's id")
        return RefusedError("the tracking server refuses", why=why or f"status {status}")
    return UnavailableError("the tracking server's answer is not understood", why=f"status {status}")
