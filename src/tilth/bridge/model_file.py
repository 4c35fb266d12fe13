"""An ONNX file read once, checked before anything else looks at it."""

import os
import re
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from tilth.bridge.model_checks import check_model
from tilth.core.blob import open_regular, read_all
from tilth.core.errors import InvalidError, MissingError, UnavailableError, UnsupportedError

MAX_MODEL_BYTES = (1 << 31) - 1

# First bytes of what people hand over instead, from the formats' own descriptions.
_LOOKS = (
    (rb"\x80[\x02-\x05]", "a Python pickle; it could run code and is never opened"),
    (rb"PK\x03\x04", "a zip archive, as PyTorch `.pt`, Keras `.keras` and numpy `.npz` files are"),
    (rb"PK\x05\x06", "an empty zip archive"),
    (rb"GGUF", "a GGUF file, which holds weights for llama.cpp and no graph"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, as older Keras models are"),
    (rb"(?s).{8}\{\s*\"", "a safetensors file, which holds weights and no graph"),
    (rb"(?s).{4}TFL3", "a TensorFlow Lite model"),
    (rb"(?s).{4}ORTM", "an onnxruntime `.ort` file; use the `.onnx` file that it was made from"),
    (rb"\x93NUMPY", "a numpy array"),
    (rb"\x1f\x8b", "gzip; unpack it first"),
    (rb"version https://git-lfs", "a Git LFS pointer; run `git lfs pull`"),
    (rb"\s*[<{\[]", "text, not a model; a download may have failed"),
)


def read_model(path: Path) -> tuple[ModelProto, Path]:
    """Return the model of an `.onnx` file, or of a folder that holds one, and the folder of its external data.

    External data is checked and not loaded.

    Raises:
        MissingError: there is no such file.
        InvalidError: it is not an ONNX model, or one that contradicts itself.
        UnsupportedError: it is beyond 2 GiB, or what `check_model` raises.
        UnavailableError: it cannot be read.
        UntrustedError: it is a device or pipe, or what `check_model` raises.
    """
    try:
        file = _the_one_model(path) if path.is_dir() else path
    except OSError as error:
        raise UnavailableError(
            f"`{path}` cannot be read", why=str(error.strerror), hint="check the path and your permissions"
        ) from None
    model = parse_model(_bytes(file), str(file))
    check_model(model, file.parent)
    return model, file.parent


def parse_model(data: bytes, name: str) -> ModelProto:
    """Return the protobuf of `data`, unchecked beyond its form.

    Raises:
        InvalidError: it is not a protobuf, is cut short, or nests deeper than protobuf allows.
    """
    try:
        model: ModelProto = ModelProto.FromString(data)
    except DecodeError as error:
        deep = "depth" in str(error).lower()
        raise InvalidError(
            f"`{name}` is not an ONNX model",
            why="it nests deeper than protobuf allows" if deep else "it is cut short or is of another format",
            hint="fetch or export it again, and compare its size",
        ) from None
    return model


def look(head: bytes) -> str:
    """Return what a file that starts with `head` looks like, or nothing when it may be ONNX."""
    return next((kind for pattern, kind in _LOOKS if re.match(pattern, head)), "")


def _the_one_model(folder: Path) -> Path:
    found = sorted(item for item in folder.iterdir() if item.suffix.lower() == ".onnx")
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"`{item.name}`" for item in found[:5])
    raise InvalidError(
        f"`{folder}` holds {len(found)} `.onnx` files" + (f": {shown}" if shown else ""),
        why="a folder stands for a model when it holds one",
        hint="name the file itself",
    )


def _bytes(path: Path) -> bytes:
    try:
        handle = open_regular(path, follow=True)
    except MissingError:
        raise MissingError(
            f"there is no model `{path}`", why="the path leads nowhere", hint="check it with `ls`"
        ) from None
    try:
        size = os.fstat(handle).st_size
        _check_head(path, os.pread(handle, 512, 0), size)
        return read_all(handle, 0, size, str(path))
    finally:
        os.close(handle)


def _check_head(path: Path, head: bytes, size: int) -> None:
    if not head:
        raise InvalidError(f"`{path}` is empty", why="it has no bytes", hint="fetch or export it again")
    kind = look(head)
    if kind:
        raise InvalidError(
            f"`{path}` is not an ONNX model",
            why=f"it looks like {kind}",
            hint="export the model to ONNX, or import it from its own framework",
        )
    if size > MAX_MODEL_BYTES:
        raise UnsupportedError(
            f"`{path}` has {size} bytes",
            why=f"protobuf ends at {MAX_MODEL_BYTES}",
            hint="save it with `onnx.save_model(model, path, save_as_external_data=True)`",
        )
