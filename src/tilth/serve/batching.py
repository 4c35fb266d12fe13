"""When requests are run together: only where the certificate shows that a larger batch pays; pure."""

from dataclasses import dataclass

from tilth.bridge.batch import tells_rows_apart
from tilth.core.certificate import Certificate, Lanes
from tilth.core.signature import Signature

#: How much faster per row a larger batch must have been; less is within what a busy machine makes of it.
_PAYS = 1.10
#: How long the first request of a batch may wait for others, as a share of what it takes alone.
_WAIT_SHARE = 0.2


@dataclass(frozen=True)
class Batching:
    """`most_rows` that run together, 1 for no batching, and how long the first may wait for others, in seconds."""

    most_rows: int = 1
    wait_s: float = 0.0

    @property
    def on(self) -> bool:
        """Whether anything is run together."""
        return self.most_rows > 1


def batching(certificate: Certificate, signature: Signature, lanes: Lanes | None = None) -> Batching:
    """Return how a build batches: up to the measured batch size with the most rows per second, if that pays.

    Where there are lanes it has to pay more than they do, which keep nobody waiting for others. Off where rows of the
    outputs cannot be told apart, or where only one batch size was measured.
    """
    if not tells_rows_apart(signature) or len(certificate.timings) < 2:
        return Batching()
    single = min(certificate.timings, key=lambda t: t.batch)
    best = max(certificate.timings, key=lambda t: t.rows_per_s)
    least = _PAYS * (lanes.gain if lanes is not None else 1.0)
    if best.batch == single.batch or best.rows_per_s < single.rows_per_s * least:
        return Batching()
    return Batching(best.batch, single.p50_ms / 1e3 * _WAIT_SHARE)
