"""The only module that names concrete plug-ins; third parties come in by entry point."""

import os
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tilth.core.errors import MissingError

if TYPE_CHECKING:
    from tilth.core.device import Device
    from tilth.ports.blob_store import BlobStore
    from tilth.ports.engine import Engine
    from tilth.ports.frontend import Frontend
    from tilth.ports.prober import Prober
    from tilth.ports.tracker import Tracker

# Order matters: the first frontend that accepts a model takes it.
_FRONTENDS = {
    "onnx": "tilth.plugins.frontends.onnx_file:OnnxFrontend",
    "lightgbm": "tilth.plugins.frontends.lightgbm:LightGBMFrontend",
    "xgboost": "tilth.plugins.frontends.xgboost:XGBoostFrontend",
    "torch": "tilth.plugins.frontends.torch:TorchFrontend",
    "sklearn": "tilth.plugins.frontends.sklearn:SklearnFrontend",
}
_ENGINES = {
    "ort": "tilth.plugins.engines.ort:OrtEngine",
    "openvino": "tilth.plugins.engines.openvino:OpenVinoEngine",
    "reference": "tilth.plugins.engines.reference:ReferenceEngine",
}
_PROBERS = {
    "cpu": "tilth.plugins.devices.cpu:CpuProber",
    "null": "tilth.plugins.devices.null:NullProber",
}
_ROLES = {
    "measure": "tilth.bridge.measure.child:serve",
    "derive": "tilth.bridge.derive:serve",
    "capture": "tilth.bridge.capture_child:serve",
    "worker": "tilth.serve.worker:serve",
    "runner": "tilth.serve.runner:serve",
    "inspect": "tilth.control.intake.inspector:serve",
}
_OBJECTS = "tilth.plugins.blobs.objects:ObjectStore"
_BLOBS = {
    "file": "tilth.plugins.blobs.folder:FolderStore",
    "s3": _OBJECTS,
    "gs": _OBJECTS,
    "az": _OBJECTS,
    "memory": _OBJECTS,
}
#: What reads a framework's own form of trees, by suffix.
_SAVED = {".lgb": "tilth.plugins.frontends.lightgbm:saved", ".ubj": "xgboost:Booster", ".xgb": "xgboost:Booster"}
_TRACKERS = {"mlflow": "tilth.plugins.trackers.mlflow:MlflowTracker"}


def frontends() -> "list[Frontend]":
    """Return every frontend, installed or not, in the order in which they are asked."""
    return [cast("Frontend", item) for item in _all("tilth.frontends", _FRONTENDS).values()]


def engines() -> "dict[str, Engine]":
    """Return every engine by name, installed or not."""
    return {name: cast("Engine", item) for name, item in _all("tilth.engines", _ENGINES).items()}


def engine(name: str) -> "Engine":
    """Return one engine.

    Raises:
        MissingError: no engine has this name.
    """
    known = engines()
    if name not in known:
        raise MissingError(
            f"there is no engine `{name}`",
            why="known engines: " + ", ".join(known),
            hint="run `tilth engines` to see which are installed",
        )
    return known[name]


def probers() -> "list[Prober]":
    """Return every device prober."""
    return [cast("Prober", item) for item in _all("tilth.devices", _PROBERS).values()]


def this_device() -> "Device":
    """Return the CPU that this process runs on.

    Raises:
        MissingError: no prober recognises it.
    """
    for prober in probers():
        for device in prober.devices():
            if device.target.startswith("cpu-"):
                return device
    raise MissingError(
        "no CPU was recognised", why="no prober found one", hint="run `tilth devices` and `tilth doctor`"
    )


def blob_store(address: str) -> "BlobStore":
    """Return the place for blobs that an address names: a folder, or `s3://`, `gs://` and `az://` with a bucket.

    Raises:
        MissingError: no place is of that kind.
        UnavailableError: it cannot be used.
    """
    scheme, _, rest = address.partition("://") if "://" in address else ("file", "", address)
    known = {**_BLOBS, **{point.name: point.value for point in entry_points(group="tilth.blobs")}}
    if scheme not in known:
        raise MissingError(
            f"blobs cannot be kept at `{scheme}://`",
            why="known: a folder, " + ", ".join(f"{name}://" for name in known if name != "file"),
            hint="give a folder, or an address such as s3://bucket/prefix",
        )
    return cast("BlobStore", load(known[scheme])(Path(rest) if scheme == "file" else address))


def trackers() -> "list[Tracker]":
    """Return every kind of tracking server, installed or not; the first is the one that `tilth up` starts."""
    return [cast("Tracker", item) for item in _all("tilth.trackers", _TRACKERS).values()]


def load(path: str) -> Any:
    """Return what `package.module:name` names, or the module when there is no colon."""
    module, _, attribute = path.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def open_model(kind: str, what: str) -> Any:
    """Return a model by running code: a `factory` is called, a `pickled` file is unpickled, a `saved` one is read.

    The first two run whatever they hold. Only a child process that a person asked for calls this.

    Raises:
        MissingError: the module, the function, or the library that reads the file is not there.
    """
    try:
        suffix = Path(what).suffix
        if kind == "saved":
            return load(_SAVED[suffix])(model_file=what)
        if suffix == ".skops":
            return load("skops.io:load")(what, trusted=load("skops.io:get_untrusted_types")(file=what))
        if kind == "pickled":
            return load("joblib:load")(what)
        # A factory is found as `python -m` would find it: from the folder that the command was started in.
        sys.path.insert(0, os.getcwd())
        return load(what)()
    except (ModuleNotFoundError, AttributeError) as error:
        raise MissingError(
            f"`{what}` cannot be opened",
            why=str(error),
            hint="install what the model was saved with, or start from the folder that holds the module",
        ) from None


def worker_command(role: str) -> tuple[str, ...]:
    """Return the command that starts a child, one of the roles; two pipe numbers are appended to it."""
    return (sys.executable, "-m", "tilth.wiring", role)


def _all(group: str, builtin: dict[str, str]) -> dict[str, Any]:
    found = {name: _made(path) for name, path in builtin.items()}
    for point in entry_points(group=group):
        found.setdefault(point.name, _made(point.value))
    return found


@cache
def _made(path: str) -> Any:
    return load(path)()


def _serve_child(role: str, commands: int, replies: int) -> None:
    # Loaded late, so that a child that measures does not carry what one that derives needs.
    serve = load(_ROLES[role])
    with os.fdopen(commands, encoding="utf-8") as reading, os.fdopen(replies, "w", encoding="utf-8") as writing:
        if role == "capture":
            serve(frontends(), engine, open_model, reading, writing)
        elif role in ("worker", "runner"):
            serve(engines(), this_device, reading, writing)
        elif role == "inspect":
            serve(reading, writing)
        else:
            serve(engine, reading, writing)


if __name__ == "__main__":
    _serve_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
