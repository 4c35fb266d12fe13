"""A bundle opened without trust: what comes out of it was checked against its digest each time."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from onnx import ModelProto

from tilth.bridge.arrays import check_array, decode_array
from tilth.bridge.container import Container, Opened, open_container
from tilth.bridge.disk import clear_errors, emptied_on_error, new_file
from tilth.bridge.manifest import arrays, decode_manifest
from tilth.bridge.model_checks import check_model
from tilth.bridge.model_file import parse_model
from tilth.bridge.skeleton import facts, join
from tilth.core import bundle as record
from tilth.core.blob import FileRange, read_all, read_range
from tilth.core.digest import digest as digest_of
from tilth.core.errors import InvalidError, MissingError, UntrustedError
from tilth.core.graph import Graph
from tilth.ports.arrays import Value

#: Models whose skeleton and weights stay below this are written as one file.
SELF_CONTAINED_BYTES = 64 << 20
_AGAIN = "the bundle was altered or damaged; fetch it again from where it was made"


def open_bundle(path: Path) -> "Bundle":
    """Return the bundle at `path`, a folder or a `.tilth` file, after steps 1 to 3 and the sizes of steps 4 and 6.

    Raises:
        MissingError: there is nothing at `path`.
        InvalidError: it is not a bundle.
        UnsupportedError: a later version of Tilth wrote it.
        UntrustedError: a check failed.
        UnavailableError: it cannot be read.
    """
    container = open_container(path)  # step 1
    try:
        return Bundle(path, container)
    except BaseException:
        container.close()
        raise


class Bundle:
    """An open bundle, and a context manager that closes it.

    `digest` is the SHA-256 of the manifest. Every method that reads raises UntrustedError when bytes are not what
    names them, and MissingError when a blob went away or is not in this bundle.
    """

    def __init__(self, path: Path, container: Container) -> None:
        self.path = path
        self._container = container
        data = container.manifest()
        self.digest = digest_of(data)
        self.manifest = decode_manifest(data)  # steps 2 and 3
        _check_sizes(self.manifest, container)  # step 4, as far as sizes go
        for array in arrays(self.manifest):  # step 6, as far as sizes go
            check_array(array, self.manifest.blobs[array.blob])

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back open files. Calling it twice is allowed."""
        self._container.close()

    def blob(self, digest: str) -> bytes:
        """Return a blob, hashed (step 4)."""
        with self._opened(digest) as found:
            data = read_all(found.handle, found.offset, found.size, f"blob {digest[:12]}")
        _check_digest(digest, digest_of(data))
        return data

    def source(self, digest: str) -> FileRange:
        """Return where a blob lies, for writing it into another bundle, which hashes it."""
        self._listed(digest)
        return self._container.source(digest)

    def skeleton(self, digest: str) -> ModelProto:
        """Return a graph's ONNX model without its weights, checked (step 5).

        Raises:
            UntrustedError: it is beyond a limit, refers to other blobs, or is not what the manifest says of it.
        """
        return self._skeleton(digest)[0]

    def golden(self) -> list[tuple[dict[str, Value], dict[str, Value]]]:
        """Return inputs and outputs of every golden case by name (steps 4 and 6); the caller owns them."""
        return [(self.inputs(number), self.outputs(number)) for number in range(len(self.manifest.golden.cases))]

    def inputs(self, case: int) -> dict[str, Value]:
        """Return the inputs of one golden case by name (steps 4 and 6); the caller owns them."""
        return {name: self._value(value) for name, value in self.manifest.golden.cases[case].inputs.items()}

    def outputs(self, case: int) -> dict[str, Value]:
        """Return the outputs of one golden case by name (steps 4 and 6); the caller owns them."""
        return {name: self._value(value) for name, value in self.manifest.golden.cases[case].outputs.items()}

    def materialise(self, graph_digest: str, folder: Path, *, self_contained_bytes: int = SELF_CONTAINED_BYTES) -> Path:
        """Write a graph as `model.onnx` into `folder` and return its path (step 7).

        `folder` is made with mode 0700, or is empty. Weights lie in it as files named by digest, hashed while they
        are written; models below `self_contained_bytes` are one file. On an error nothing of it stays.

        Raises:
            InvalidError: `folder` is not empty.
            UnavailableError: the disk is full, or the place cannot be written.
        """
        _, data = self._skeleton(graph_digest)
        weights = self._graph(graph_digest).weights
        total = len(data) + sum(weights.values())
        with clear_errors(folder, total):
            _make_private(folder)
        with clear_errors(folder / "model.onnx", total), emptied_on_error(folder):
            if total < self_contained_bytes:
                data, weights = join(data, self.blob).SerializeToString(deterministic=True), {}
            for name in weights:
                with new_file(folder / name) as file:
                    self._copy(name, file)
            with new_file(folder / "model.onnx") as file:
                file.write(data)
        return folder / "model.onnx"

    def verify(self) -> None:
        """Check everything: all blobs (step 4), all skeletons (5), all golden arrays (6)."""
        for name in self.manifest.blobs:
            self._copy(name, None)
        for graph in self.manifest.graphs:
            self._skeleton(graph.digest)
        self.golden()

    def _skeleton(self, digest: str) -> tuple[ModelProto, bytes]:
        graph = self._graph(digest)
        model = parse_model(self.blob(digest), f"graph {digest[:12]}")
        # What this version of ONNX does not know, an engine's version might.
        model.DiscardUnknownFields()
        check_model(model, None, blobs=self.manifest.blobs)
        if facts(model, digest) != graph:
            raise UntrustedError(
                f"graph {digest[:12]} is not what the manifest says of it",
                why="operators, opsets, element types or weights differ",
                hint=_AGAIN,
            )
        return model, model.SerializeToString(deterministic=True)

    def _graph(self, digest: str) -> Graph:
        for graph in self.manifest.graphs:
            if graph.digest == digest:
                return graph
        raise _unknown(f"graph {digest[:12]}", self.path)

    def _value(self, value: record.Value) -> Value:
        if value is None:
            return None
        if isinstance(value, record.Array):
            return decode_array(value, self.blob(value.blob))
        return [decode_array(item, self.blob(item.blob)) for item in value]

    def _copy(self, digest: str, file: IO[bytes] | None) -> None:
        state = hashlib.sha256()
        with self._opened(digest) as found:
            for block in read_range(found.handle, found.offset, found.size, f"blob {digest[:12]}"):
                state.update(block)
                if file is not None:
                    file.write(block)
        _check_digest(digest, state.hexdigest())

    @contextmanager
    def _opened(self, digest: str) -> Iterator[Opened]:
        wanted = self._listed(digest)
        found = self._container.opened(digest)
        try:
            if found.size != wanted:
                raise _wrong_size(digest, found.size, wanted)
            yield found
        finally:
            if found.owned:
                os.close(found.handle)

    def _listed(self, digest: str) -> int:
        if digest not in self.manifest.blobs:
            raise _unknown(f"blob {digest[:12]}", self.path)
        return self.manifest.blobs[digest]


def _check_sizes(manifest: record.Manifest, container: Container) -> None:
    if manifest.blobs != container.sizes:
        names = set(manifest.blobs) ^ set(container.sizes)
        name = min(names or (n for n, size in manifest.blobs.items() if container.sizes[n] != size))
        found, wanted = container.sizes.get(name), manifest.blobs.get(name)
        raise _wrong_size(name, found, wanted)


def _check_digest(wanted: str, found: str) -> None:
    if found != wanted:
        raise UntrustedError(f"blob {wanted[:12]} holds other bytes", why=f"they hash to {found[:12]}", hint=_AGAIN)


def _wrong_size(name: str, found: int | None, wanted: int | None) -> UntrustedError:
    return UntrustedError(
        f"blob {name[:12]} has {'no' if found is None else found} bytes",
        why=f"the manifest lists {'no such blob' if wanted is None else f'{wanted} bytes'}",
        hint=_AGAIN,
    )


def _unknown(what: str, path: Path) -> MissingError:
    return MissingError(
        f"there is no {what} in `{path}`",
        why="the manifest does not list it",
        hint="run `tilth show` on the bundle to see what it holds",
    )


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InvalidError(
            f"`{folder}` is not empty",
            why="a model is written into a folder of its own, so that nothing else can stand in for a weight",
            hint="name a new folder",
        )
