"""From what a contender showed to its certificate; pure but for the versions of this process."""

import platform
from collections.abc import Sequence

from tilth.bridge.capture import now
from tilth.bridge.measure.arena import Contender
from tilth.bridge.measure.timing import summary
from tilth.bridge.request import Request
from tilth.bridge.sight import Sight
from tilth.core.certificate import Certificate, Lanes, Timing
from tilth.core.device import Device


def certificate(
    contender: Contender,
    sight: Sight,
    *,
    device: Device,
    anchor: str,
    request: Request,
    inputs_digest: str,
    tilth: str,
    lanes: Lanes | None = None,
) -> Certificate:
    """Return the certificate of a contender that ran, whether it agrees or not."""
    return Certificate(
        build=contender.id,
        device=device,
        agreement=sight.agreement,
        agrees=not sight.objections,
        tolerance=_terms(request),
        timings=_timings(contender, anchor),
        placement=sight.placement,
        peak_memory_bytes=sight.peak_memory_bytes,
        load_memory_bytes=sight.load_memory_bytes,
        load_ms=sight.load_ms,
        versions={
            contender.build.engine: sight.version,
            "driver": device.driver,
            "python": platform.python_version(),
            "tilth": tilth,
        },
        inputs_digest=inputs_digest,
        measured_at=now(),
        reasons=sight.objections,
        task=sight.task,
        lanes=lanes,
    )


def _timings(contender: Contender, anchor: str) -> tuple[Timing, ...]:
    batches: Sequence[int] = sorted(contender.samples)
    return tuple(summary(contender.samples[batch], batch, anchor) for batch in batches)


def _terms(request: Request) -> str:
    if request.evaluation is not None:
        return f"task metric may drop by {request.evaluation.max_drop:.2%}"
    return str(request.tolerance)
