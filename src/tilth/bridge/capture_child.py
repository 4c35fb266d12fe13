"""The child process that runs a user's code or reads a user's file, and leaves a bundle without builds."""

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from tilth.bridge.agreement import Tolerance
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.capture import Captured, Terms, capture
from tilth.bridge.measure.tether import tie_to_parent
from tilth.bridge.value_file import read_values
from tilth.core.build import Build, Precision
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, TilthError, UnavailableError, UnsupportedError
from tilth.core.record import from_json
from tilth.ports.engine import Engine, Session
from tilth.ports.frontend import Frontend

#: Where a model comes from: a file that a frontend reads, a file that is code, a function that returns the model, or a
#: file that is data in a framework's own form.
Kind = Literal["file", "pickled", "factory", "saved"]


def serve(
    frontends: Sequence[Frontend],
    find_engine: Callable[[str], Engine],
    open_model: Callable[[Kind, str], Any],
    commands: TextIO,
    replies: TextIO,
) -> None:
    """Answer `capture` commands until the pipe closes."""
    tie_to_parent()
    for line in commands:
        request = json.loads(line)
        request.pop("do")
        try:
            reply: dict[str, Any] = {"ok": _capture(frontends, find_engine, open_model, **request)}
        except TilthError as error:
            reply = {"error": error.as_json()}
        except OSError as error:
            reply = {"error": _from_os(error).as_json()}
        except Exception as error:  # whatever the user's own code raises
            reply = {"error": _failed(error).as_json()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _from_os(error: OSError) -> TilthError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return _failed(error)
    return UnavailableError(
        "there is no room for temporary files", why=str(error), hint="make room, or set TMPDIR to another disk"
    )


def _failed(error: Exception) -> TilthError:
    return InvalidError(
        "the model's code failed",
        why=f"{type(error).__name__}: {str(error)[:1000]}",
        hint="load and run the model without Tilth first; what it raises there is what was raised here",
    )


def _capture(
    frontends: Sequence[Frontend],
    find_engine: Callable[[str], Engine],
    open_model: Callable[[Kind, str], Any],
    *,
    kind: Kind,
    what: str,
    sample: str,
    name: str,
    out: str,
    device: dict[str, Any],
    tolerance: float,
    nonfinite: bool,
    version: str,
) -> dict[str, Any]:
    model: Any = Path(what) if kind == "file" else open_model(kind, what)
    given: Any = read_values(Path(sample)) if sample else None
    if isinstance(model, tuple) and len(model) == 2:
        model, own = model
        given = given if given is not None else own
    proving, chip = find_engine("ort"), from_json(Device, device)
    captured = capture(
        frontend_for(model, frontends),
        model,
        given,
        name=name,
        version=version,
        load=loader(proving, chip),
        terms=Terms(Tolerance(rms=tolerance) if tolerance else Tolerance(), nonfinite),
    )
    _write(captured, Path(out))
    return {"agreement": captured.agreement.max_rel}


def _write(captured: Captured, out: Path) -> None:
    write_bundle(out, captured.manifest, captured.blobs, folder=True)


def loader(engine: Engine, device: Device) -> Callable[[Path], Session]:
    """Return a function that loads an ONNX file in an engine, as it is."""

    def load(path: Path) -> Session:
        return engine.load(path, Build("", device.target, engine.name, Precision.FP32), device)

    return load


def frontend_for(model: object, frontends: Sequence[Frontend]) -> Frontend:
    """Return the first frontend that accepts the model.

    Raises:
        MissingError: the model is a path to nothing.
        UnsupportedError: no frontend accepts it.
    """
    if isinstance(model, Path) and not model.exists():
        raise MissingError(f"there is no file `{model}`", hint="check the path, or name a `package.module:factory`")
    for frontend in frontends:
        if frontend.accepts(model):
            return frontend
    found = f"`{model}`" if isinstance(model, Path) else f"a `{type(model).__module__}.{type(model).__qualname__}`"
    raise UnsupportedError(
        f"no frontend takes {found}",
        why="frontends: " + ", ".join(frontend.name for frontend in frontends),
        hint="give an .onnx file, a folder with one, a .joblib or .pt2 file with --trust, or `package.module:factory`",
    )
