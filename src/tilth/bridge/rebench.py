"""A certified build timed again, beside the build that it was compared with when it was certified."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tilth.bridge.batch import resized
from tilth.bridge.bundle_read import Bundle
from tilth.bridge.measure.arena import Arena, Contender, Limits
from tilth.bridge.measure.rounds import time_round
from tilth.bridge.measure.timing import summary
from tilth.bridge.measure.worker import WorkerFailed
from tilth.bridge.model import chosen
from tilth.bridge.search import Progress, estimate_limits
from tilth.bridge.value_file import write_values
from tilth.core.build import Build
from tilth.core.certificate import Timing
from tilth.core.device import Device
from tilth.core.errors import UnavailableError


def rebench(
    bundle: Bundle, device: Device, command: Sequence[str], batches: Sequence[int], seconds: float, progress: Progress
) -> tuple[Build, Build, list[Timing]]:
    """Return the chosen build, the build beside it, and one timing per batch size, about `seconds` each.

    A graph with a fixed batch is timed as it is, whatever `batches` says.

    Raises:
        RefusedError: no build is certified for this device.
        UnavailableError: a build crashed or hung.
    """
    _, build, certificate = chosen(bundle.manifest, device)
    beside_id = certificate.timings[0].reference_build if certificate.timings else build.id
    beside = next((b for b in bundle.manifest.builds if b.id == beside_id), build)
    signature = bundle.manifest.signature
    wanted = sorted(set(batches)) if signature.dynamic_batch else [1]
    with tempfile.TemporaryDirectory(prefix="tilth-") as inside:
        folder = Path(inside)
        contenders = {b.id: _contender(bundle, b, folder) for b in (build, beside)}
        child, together = estimate_limits(bundle.manifest.graph.weights_bytes, device.memory_bytes, 0)
        arena = Arena(command, folder, device, Limits(child, together))
        try:
            sample = bundle.inputs(0)
            for number, batch in enumerate(wanted):
                progress("timing", number, len(wanted), f"batch {batch}")
                inputs = folder / f"batch-{batch}.npz"
                write_values(inputs, resized(sample, signature, batch) if signature.dynamic_batch else sample)
                rivals = [c for name, c in contenders.items() if name != beside.id]
                time_round(arena, contenders[beside.id], rivals, inputs, batch, seconds, _failed)
        except WorkerFailed as error:
            raise UnavailableError(
                "a build could not be timed", why=error.reason, hint="run `tilth build` again"
            ) from None
        finally:
            arena.close()
        own = contenders[build.id]
        return build, beside, [summary(own.samples[batch], batch, beside.id) for batch in wanted]


def _contender(bundle: Bundle, build: Build, folder: Path) -> Contender:
    path = folder / build.variant
    model = path / "model.onnx" if path.exists() else bundle.materialise(build.variant, path)
    return Contender(build, model, bundle.manifest.graph.weights_bytes)


def _failed(contender: Contender, error: WorkerFailed) -> None:
    raise error
