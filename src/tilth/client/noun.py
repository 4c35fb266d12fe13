"""What the parts of a client have in common: connections, and the project that they are about."""

from dataclasses import dataclass

from tilth.client.wire import Wire, path_of


@dataclass(frozen=True)
class Noun:
    """One kind of thing of a control plane; `project` is the one that paths are in."""

    wire: Wire
    project: str

    def _in(self, *names: str) -> str:
        return path_of("projects", self.project, *names)
