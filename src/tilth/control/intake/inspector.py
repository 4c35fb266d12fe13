"""The child process that opens graphs: a file that crashes a parser ends the child and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tilth.bridge.bundle_read import Bundle
from tilth.bridge.container import Opened
from tilth.bridge.measure.tether import tie_to_parent
from tilth.control.intake.needed import has_text
from tilth.core.blob import FileRange, open_regular
from tilth.core.errors import MissingError, TilthError


def serve(commands: TextIO, replies: TextIO) -> None:
    """Answer `inspect` commands until the pipe closes."""
    tie_to_parent()
    for line in commands:
        request = json.loads(line)
        request.pop("do")
        try:
            reply: dict[str, Any] = {"ok": inspect(Path(request["folder"]))}
        except TilthError as error:
            reply = {"error": error.as_json()}
        except Exception as error:
            reply = {"error": {"what": f"{type(error).__name__}: {str(error)[:1000]}", "why": "", "hint": ""}}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def inspect(folder: Path) -> bool:
    """Check what of a bundle lies in a folder: `manifest.json`, graphs and string arrays by digest.

    Sizes of the other blobs are taken from the manifest; whoever asks has compared them.

    Raises:
        TilthError: a step of docs/reference/bundle.md fails.
    """
    with Bundle(folder, _Partial(folder)) as bundle:
        for graph in bundle.manifest.graphs:
            bundle.skeleton(graph.digest)
        for number, case in enumerate(bundle.manifest.golden.cases):
            if any(map(has_text, case.inputs.values())):
                bundle.inputs(number)
            if any(map(has_text, case.outputs.values())):
                bundle.outputs(number)
    return True


class _Partial:
    """A container of which some blobs are here. `sizes` are those that the manifest says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = (folder / "manifest.json").read_bytes()
        self.sizes: Mapping[str, int] = json.loads(self._manifest).get("blobs", {})

    def manifest(self) -> bytes:
        return self._manifest

    def opened(self, digest: str) -> Opened:
        path = self._folder / digest
        if not path.exists():
            raise MissingError(f"blob {digest[:12]} is not at hand", why="it was not thought to be needed")
        return Opened(open_regular(path), 0, path.stat().st_size, owned=True)

    def source(self, digest: str) -> FileRange:
        return FileRange(self._folder / digest, 0, self.sizes[digest])

    def close(self) -> None:
        """Nothing stays open."""
