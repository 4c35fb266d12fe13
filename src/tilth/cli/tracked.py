"""Models that are named by the run that logged them: brought to this machine before they are imported."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilth import wiring
from tilth.bridge.value_file import write_values
from tilth.cli.local import Local
from tilth.cli.progress import shown
from tilth.client.login import current_login
from tilth.client.tracking import Tracking, notes
from tilth.core.errors import MissingError
from tilth.ports.arrays import Values
from tilth.ports.tracker import TrackedModel, Tracker

_MOST_EXAMPLE_BYTES = 64 << 20


@contextlib.contextmanager
def fetched(text: str, check_trust: Callable[[str], None], as_json: bool) -> Iterator[Local]:
    """Yield the model that `text` names by its run, in a folder that is gone at the end.

    `check_trust` is asked before anything comes that is code, and the code is run by nobody here.

    Raises:
        MissingError: there is no server to ask, or no such model there.
        TilthError: as `Tracking`.
    """
    tracker, named = next((one, found) for one in wiring.trackers() if (found := one.named(text)) is not None)
    tracking = Tracking(tracker, *_server(tracker))
    try:
        model = tracking.find(*named)
        if model.is_code:
            check_trust(f"{text}: {model.opens}")
        with tempfile.TemporaryDirectory(prefix="tilth-") as inside:
            folder = Path(inside)
            whole = sum(file.size_bytes for file in model.files)
            with shown(as_json) as report:
                tracking.download(model, folder, lambda count: report("downloading", count, max(count, whole), text))
            stem = model.name.rpartition("/")[2] or "model"
            yield Local(str(folder / model.opens), stem, _sample(model, folder), notes(tracker.name, model))
    finally:
        tracking.close()


def _server(tracker: Tracker) -> tuple[str, str]:
    url, token = (os.environ.get(name, "") for name in tracker.variables)
    if url and token:
        return url, token
    try:
        login = current_login()
    except MissingError as error:
        raise MissingError(
            "there is no tracking server to ask",
            why=f"{' and '.join(f'`{name}`' for name in tracker.variables)} are not both set, and {error.what}",
            hint="run `tilth login URL` where the control plane was started with `--tracking`, or set both",
        ) from None
    return f"{login.url.rstrip('/')}/{tracker.name}", login.token


def _sample(model: TrackedModel, folder: Path) -> Path | None:
    """Return the input example that was logged with a model as a file of values, None when it fits none."""
    if not model.example or (folder / model.example).stat().st_size > _MOST_EXAMPLE_BYTES:
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        told = json.loads((folder / model.example).read_text(encoding="utf-8"))
        values = _values(told, dict(model.inputs))
        if values:
            path = folder / "tilth-sample.npz"
            write_values(path, values)
            return path
    return None


def _values(told: Any, dtypes: Mapping[str, str]) -> Values:
    if isinstance(told, dict) and set(told) >= {"columns", "data"}:
        columns = zip(told["columns"], zip(*told["data"], strict=True), strict=True)
        return {str(name): _array(rows, dtypes.get(str(name), "")) for name, rows in columns}
    if isinstance(told, dict):
        return {str(name): _array(rows, dtypes.get(str(name), "")) for name, rows in told.items()}
    # One array without a name: the frontends take it whatever it is called, graphs with named inputs do not.
    return {"X": _array(told, dtypes.get("", ""))} if set(dtypes) == {""} else {}


def _array(rows: Any, dtype: str) -> Any:
    made = np.asarray(rows, dtype=dtype) if dtype and dtype != "str" else np.asarray(rows)
    if made.dtype == object:
        raise ValueError("ragged")
    return made
