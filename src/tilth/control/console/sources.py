"""What pages read beside the store: the figures of endpoints, where they answer, and the evidence in bundles."""

from collections.abc import Callable
from dataclasses import dataclass

from tilth.client.origin import seen_from
from tilth.client.shapes.endpoint import Endpoint, UsagePoint
from tilth.control.console.figures import Figures


@dataclass(frozen=True)
class Sources:
    """`usage` tells what an endpoint did of late, by the name it is served as; `serving` where endpoints answer."""

    usage: Callable[[str], list[UsagePoint]]
    serving: Callable[[], str]
    figures: Figures

    def points(self, endpoint: Endpoint) -> list[UsagePoint]:
        """Return the last minutes of an endpoint."""
        return self.usage(endpoint.served_as)

    def address(self, base: str) -> str:
        """Return where endpoints answer over REST for who has the console at `base`; a placeholder for nowhere."""
        return seen_from(self.serving(), base) or "http://HOST:8751"
