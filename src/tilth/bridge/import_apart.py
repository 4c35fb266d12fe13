"""Import in a child process: a file that crashes a parser, or code that hangs, ends the child and nothing else."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.capture_child import Kind
from tilth.bridge.destination import check_destination
from tilth.bridge.measure.worker import WorkerFailed, start
from tilth.core.bundle import Manifest
from tilth.core.device import Device
from tilth.core.errors import CancelledError, InvalidError, TilthError
from tilth.core.record import to_json


@dataclass(frozen=True)
class Order:
    """What to import: see `tilth import --help` for the meaning of each field."""

    kind: Kind
    what: str
    sample: str
    name: str
    tolerance: float
    nonfinite: bool
    version: str


def import_apart(
    command: Sequence[str],
    order: Order,
    device: Device,
    out: Path,
    *,
    folder: bool,
    timeout_s: float,
    memory_bytes: int,
    done: Callable[[], None],
    notes: Mapping[str, str] | None = None,
) -> Manifest:
    """Capture a model in a child process, check what it left, and write the bundle at `out` with `notes` in it.

    `done` is called when the child has finished and writing starts.

    Raises:
        TilthError: the class that the child's own error had; nothing is written then.
        MissingError, UnavailableError: nothing can be written at `out`; the model is not even read then.
        InvalidError: the child crashed, hung or outgrew its memory; its last words are the reason.
        CancelledError: interrupted.
    """
    check_destination(out)
    with tempfile.TemporaryDirectory(prefix="tilth-") as inside:
        made = Path(inside) / "bundle"
        worker = start(command, Path(inside) / "log", memory_bytes)
        try:
            worker.call("capture", timeout_s, **asdict(order), out=str(made), device=to_json(device))
        except WorkerFailed as failure:
            raise as_error(failure) from None
        except KeyboardInterrupt:
            raise CancelledError("the import was interrupted", why="nothing was written") from None
        finally:
            worker.close()
        done()
        with open_bundle(made) as bundle:
            blobs = {name: bundle.source(name) for name in bundle.manifest.blobs}
            manifest = replace(bundle.manifest, notes={**bundle.manifest.notes, **(notes or {})})
            write_bundle(out, manifest, blobs, folder=folder)
            return manifest


def as_error(failure: WorkerFailed) -> TilthError:
    """Return a child's failure as the error that a caller can act on."""
    if failure.error is None:
        words = failure.last_words.strip().splitlines()
        return InvalidError(
            "the process that read the model did not finish",
            why=failure.reason + (f"; it last said: {words[-1][:300]}" if words else ""),
            hint="check the file with `onnx.checker`, or give more with `--memory` and `--timeout`",
        )
    known = {kind.__name__: kind for kind in TilthError.__subclasses__()}
    kind = known.get(failure.error.get("error", ""), InvalidError)
    return kind(failure.error["what"], why=failure.error["why"], hint=failure.error["hint"])
