"""One bundle made ready to serve: the certified build for this device loaded, and what of it others need to know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.lanes import MOST_LANES
from tilth.bridge.model import Model, chosen, load_model
from tilth.core.build import Build
from tilth.core.bundle import Choice, Manifest
from tilth.core.certificate import Certificate, Lanes
from tilth.core.device import Device
from tilth.core.record import from_json, to_json
from tilth.core.signature import Signature
from tilth.ports.engine import Engine
from tilth.serve.batching import Batching, batching

#: A build that answers in less than this, in milliseconds, runs on the event loop: handing it over would cost as much.
_INLINE_MS = 0.5
#: On the event loop a build with one thread is taken where it is at most this many times slower than the chosen one:
#: an engine's threads spin between calls, and take the cores of other workers and of those who read and write sockets.
_ALONE = 1.5
_LEAST_LIMIT_S, _LIMIT_TIMES = 2.0, 50.0
_SPARE_BYTES = 1 << 30


@dataclass(frozen=True)
class Facts:
    """What is known of a served version.

    `p50_ms` is its latency at the smallest batch, `call_limit_s` after how long a call is taken to hang,
    `memory_limit_bytes` what its process may take, `small` whether it may run on the event loop, `lanes` how many calls
    run side by side while more than one waits.
    """

    name: str
    digest: str
    signature: Signature
    build: str
    label: str
    engine: str
    p50_ms: float
    small: bool
    batching: Batching
    call_limit_s: float
    memory_limit_bytes: int
    fallback_share: float
    framework: str = ""
    lanes: int = 1

    def as_json(self) -> dict[str, Any]:
        """Return the facts for another process."""
        data: dict[str, Any] = to_json(self)
        return data

    @staticmethod
    def of_json(data: Any) -> "Facts":
        """Return facts that another process sent."""
        return from_json(Facts, data)


def facts_of(path: Path, device: Device) -> Facts:
    """Return what the bundle at `path` says of its build for this device, without loading it.

    Raises:
        RefusedError: no build is certified for this device.
        TilthError: it is not a sound bundle.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        choice, build, certificate = chosen(manifest, device)
        return _facts(manifest, bundle.digest, build, certificate, _lanes(manifest, choice))


def _lanes(manifest: Manifest, choice: Choice) -> Lanes | None:
    """Return what was measured of the choice's lanes, None where it has none, or more than a search makes."""
    found = next((c for c in manifest.certificates if choice.busy and c.build == choice.busy), None)
    lanes = found.lanes if found is not None and found.agrees else None
    return lanes if lanes is not None and 1 < lanes.count <= MOST_LANES else None


def _facts(
    manifest: Manifest, digest: str, build: Build, certificate: Certificate, lanes: Lanes | None = None
) -> Facts:
    policy = batching(certificate, manifest.signature, lanes)
    count = lanes.count if lanes is not None and not policy.on else 1
    timings = certificate.timings
    p50_ms = min(timings, key=lambda t: t.batch).p50_ms if timings else 1e3
    slowest_s = max((t.p99_ms for t in timings), default=1e3) / 1e3
    return Facts(
        name=manifest.name,
        digest=digest,
        signature=manifest.signature,
        build=build.id,
        label=build.label,
        engine=build.engine,
        p50_ms=p50_ms,
        small=p50_ms < _INLINE_MS,
        batching=policy,
        call_limit_s=max(_LEAST_LIMIT_S, slowest_s * _LIMIT_TIMES),
        memory_limit_bytes=4 * certificate.peak_memory_bytes * (1 if count == 1 else 1 + count) + _SPARE_BYTES,
        fallback_share=certificate.placement.fallback_share,
        framework=manifest.source.framework,
        lanes=count,
    )


def load(path: Path, device: Device, engines: Mapping[str, Engine], *, alone: bool) -> tuple[Model, Facts]:
    """Load the build of the bundle at `path` that is certified for this device.

    With `alone` False the build runs on an event loop, beside what else that does and other workers do on the same
    cores: a certified build with one thread is taken instead of the chosen one where it is about as fast.

    Raises:
        RefusedError: no build is certified, or a node would run elsewhere than the certificate says.
        TilthError: it is not a sound bundle, or the engine is missing.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        choice, build, certificate = chosen(manifest, device)
        lanes = _lanes(manifest, choice) if alone else None
        if not alone:
            build, certificate = _single_threaded(choice, build, certificate, manifest)
        model = load_model(bundle, device, engines, build.id)
        return model, _facts(manifest, bundle.digest, build, certificate, lanes)


def load_lanes(path: Path, device: Device, engines: Mapping[str, Engine], count: int) -> list[Model]:
    """Load the build that runs while several calls wait, once for each of `count` lanes; none for fewer than two.

    Raises what `load` raises.
    """
    with open_bundle(path) as bundle:
        choice, _, _ = chosen(bundle.manifest, device)
        return [load_model(bundle, device, engines, choice.busy) for _ in range(count if count > 1 else 0)]


def _single_threaded(
    choice: Choice, build: Build, certificate: Certificate, manifest: Manifest
) -> tuple[Build, Certificate]:
    known = {c.build: c for c in manifest.certificates}
    rivals: Sequence[Build] = [
        b
        for b in manifest.builds
        if b.settings.get("threads") == 1
        and b.target == build.target
        and b.engine == build.engine
        and b.precision == build.precision
        and b.id in known
        and known[b.id].agrees
        and known[b.id].device == certificate.device
    ]
    pairs = [(_ratio(known[b.id], choice.batch), b) for b in rivals]
    best = min(pairs, key=lambda pair: (pair[0], pair[1].id), default=None)
    own = _ratio(certificate, choice.batch)
    if best is None or build.settings.get("threads") == 1 or best[0] > own * _ALONE:
        return build, certificate
    return best[1], known[best[1].id]


def _ratio(certificate: Certificate, batch: int) -> float:
    return next((t.ratio for t in certificate.timings if t.batch == batch), float("inf"))
