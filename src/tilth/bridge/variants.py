"""Variants of the source graph, made by recipes in a child process and kept in the cache."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.bridge.cache import Cache, key
from tilth.bridge.measure.worker import start
from tilth.core.device import Device
from tilth.core.digest import checked_digest, digest_file
from tilth.core.errors import TilthError
from tilth.core.graph import Graph
from tilth.core.record import from_json, to_json
from tilth.core.signature import Signature

#: Recipes whose variant depends on the error that they aim for.
_AIMING = frozenset({"int8-mixed"})
#: The record of a recipe that changes nothing in a graph.
_NOTHING = {"changes": 0}


@dataclass(frozen=True)
class Variant:
    """A graph as an engine loads it: `model` is an ONNX file, `blobs` lie beside it under their digests."""

    graph: Graph
    model: Path
    blobs: dict[str, int]


class Kitchen:
    """Makes variants of one source graph, each once; `plain` is that graph itself.

    `make_room` is called before a variant is made, to end children whose memory it needs. `error` is the rms relative
    error that `int8-mixed` aims for.
    """

    def __init__(
        self,
        command: Sequence[str],
        plain: Variant,
        signature: Signature,
        inputs: Sequence[Path],
        device: Device,
        folder: Path,
        cache: Cache,
        memory_bytes: int,
        versions: Mapping[str, str],
        make_room: Callable[[], None] = lambda: None,
        error: float = 0.0,
    ) -> None:
        self._command, self.plain, self._signature = command, plain, signature
        self._inputs, self._device, self._folder = inputs, device, folder
        self._cache, self._memory_bytes, self._versions = cache, memory_bytes, dict(versions)
        self._make_room, self._error = make_room, error
        self._made: dict[str, Variant | None] = {"plain": plain}
        self._inputs_digest = [digest_file(path) for path in inputs]

    def make(self, recipe: str, timeout_s: float) -> Variant | None:
        """Return the variant, or None when the recipe changes nothing in this graph.

        Raises:
            WorkerFailed: the recipe refused, crashed, or outran its limits.
        """
        if recipe not in self._made:
            record = self._cache.get(self._key(recipe))
            if record == _NOTHING:
                self._made[recipe] = None
            else:
                self._made[recipe] = self._cached(record, recipe) or self._derived(recipe, timeout_s)
        return self._made[recipe]

    def _key(self, recipe: str) -> str:
        facts: dict[str, Any] = {
            "graph": self.plain.graph.digest,
            "recipe": recipe,
            "inputs": self._inputs_digest,
            "versions": self._versions,
        }
        if recipe in _AIMING:
            facts["error"] = self._error
        return f"variant-{key(facts)}"

    def _cached(self, record: Any, recipe: str) -> Variant | None:
        if not isinstance(record, dict) or not record.get("changes"):
            return None
        folder = self._folder / recipe
        folder.mkdir(mode=0o700)
        try:
            return self._restored(record, folder)
        except (TilthError, KeyError, TypeError, OSError):
            # A record or a blob that is damaged or gone; the recipe is followed again.
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            return None

    def _restored(self, record: dict[str, Any], folder: Path) -> Variant:
        graph = from_json(Graph, record["graph"])
        for name in map(checked_digest, record["blobs"]):
            data = self._cache.blob(name)
            if data is None:
                data = (self.plain.model.parent / name).read_bytes()
            (folder / name).write_bytes(data)
        (folder / graph.digest).rename(folder / "model.onnx")
        return Variant(graph, folder / "model.onnx", record["blobs"])

    def _derived(self, recipe: str, timeout_s: float) -> Variant | None:
        folder = self._folder / recipe
        folder.mkdir(mode=0o700)
        self._make_room()
        worker = start(self._command, self._folder / f"{recipe}.log", self._memory_bytes)
        try:
            reply = worker.call(
                "derive",
                timeout_s,
                model=str(self.plain.model),
                recipe=recipe,
                inputs=[str(path) for path in self._inputs],
                signature=to_json(self._signature),
                device=to_json(self._device),
                error=self._error,
                out=str(folder),
            )
        finally:
            worker.close()
        if not reply["changes"]:
            self._cache.put(self._key(recipe), _NOTHING)
            return None
        self._keep(recipe, reply, folder)
        return Variant(from_json(Graph, reply["graph"]), folder / "model.onnx", reply["blobs"])

    def _keep(self, recipe: str, reply: dict[str, Any], folder: Path) -> None:
        for name in reply["blobs"]:
            if name not in self.plain.blobs:
                self._cache.put_blob(name, (folder / name).read_bytes())
        self._cache.put(self._key(recipe), reply)
