"""A bundle's chosen build, loaded and ready to run."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tilth.bridge.bundle_read import Bundle
from tilth.bridge.check_values import checked
from tilth.core.build import Build
from tilth.core.bundle import Choice, Manifest
from tilth.core.certificate import Certificate, Placement
from tilth.core.device import Device
from tilth.core.errors import MissingError, RefusedError, UntrustedError
from tilth.core.signature import Signature
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Engine, Repeats, Session


class Model:
    """A loaded build, and a context manager that closes it.

    Not safe to call from several threads at a time; load it once per thread.
    """

    def __init__(self, session: Session, signature: Signature, build: Build, certificate: Certificate) -> None:
        self._session = session
        self.signature = signature
        self.build = build
        self.certificate = certificate
        self._quick = _quick_checks(signature)
        self._same = _same_sizes(signature)
        self._repeats = session if isinstance(session, Repeats) else None
        self._call = session.run

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Value]:
        """Return every output by name.

        `inputs` holds one array per input, of the signature's name, dtype and shape; a dimension with a name takes
        any size, the same for every input that shares the name. The arrays are read, never written.

        Raises:
            InvalidError: a name, dtype or shape does not match the graph.
        """
        # What is like inputs that were checked needs no check of its own.
        if self._repeats is not None and (again := self._repeats.again) is not None:
            outputs = again(inputs)
            if outputs is not None:
                return outputs
        quick = self._quick
        if quick is None or len(inputs) != len(quick):
            return self._call(checked(inputs, self.signature))
        for name, dtype, rank, sizes in quick:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or len(shape := array.shape) != rank:
                return self._call(checked(inputs, self.signature))
            for axis, size in sizes:
                if shape[axis] != size:
                    return self._call(checked(inputs, self.signature))
        for (name, axis), (other, other_axis) in self._same:
            if inputs[name].shape[axis] != inputs[other].shape[other_axis]:
                return self._call(checked(inputs, self.signature))
        return self._call(inputs)

    def close(self) -> None:
        """Give back the engine's memory and threads."""
        self._session.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_model(bundle: Bundle, device: Device, engines: Mapping[str, Engine], build_id: str = "") -> Model:
    """Load the build that the bundle's choice names for this device, or another one that is certified for it.

    Raises:
        RefusedError: no build is certified for this chip with the engine's installed version, or a node would run
            elsewhere than its certificate says.
        MissingError: the engine of the build is not installed.
        UnsupportedError: the engine refuses the graph that it accepted when it was certified.
    """
    choice, _, _ = chosen(bundle.manifest, device)
    build, certificate = _certified(bundle.manifest, build_id or choice.build, device)
    engine = engines.get(build.engine)
    if engine is None:
        raise MissingError(
            f"there is no engine `{build.engine}`", hint="install the plug-in that the build was made with"
        )
    _check_version(certificate, build, engine.version())
    folder = Path(tempfile.mkdtemp(prefix="tilth-"))
    try:
        session = engine.load(bundle.materialise(build.variant, folder / "model"), build, device)
    finally:
        # Engines have read or mapped the files by the time they return; nothing on disk outlives the load.
        shutil.rmtree(folder, ignore_errors=True)
    try:
        _warm(session, bundle)
        _check_placement(certificate.placement, session.placement(), build)
    except BaseException:
        session.close()
        raise
    return Model(session, bundle.manifest.signature, build, certificate)


def chosen(manifest: Manifest, device: Device) -> tuple[Choice, Build, Certificate]:
    """Return the choice for a device, its build and its certificate.

    Raises:
        RefusedError: there is none, or it was certified on another chip.
        UntrustedError: the choice contradicts the builds and certificates beside it.
    """
    choice = next((c for c in manifest.choices if c.target == device.target), None)
    if choice is None:
        have = ", ".join(sorted({c.target for c in manifest.choices})) or "none"
        raise RefusedError(
            f"`{manifest.name}` has no certified build for `{device.target}`",
            why=f"it has certified builds for: {have}",
            hint="run `tilth build` on this machine",
        )
    return choice, *_certified(manifest, choice.build, device)


def _certified(manifest: Manifest, build_id: str, device: Device) -> tuple[Build, Certificate]:
    build = next((b for b in manifest.builds if b.id == build_id), None)
    certificate = next((c for c in manifest.certificates if c.build == build_id), None)
    if build is None or certificate is None or build.target != device.target or not certificate.agrees:
        raise UntrustedError(
            f"the choice for `{device.target}` is not a build that its certificate calls good",
            why=f"build {build_id[:12]} is missing, for another target, or does not agree",
            hint="the bundle was altered; run `tilth build` on this machine",
        )
    if (certificate.device.name, certificate.device.isa) != (device.name, device.isa):
        raise RefusedError(
            f"the build for `{device.target}` was certified on another chip",
            why=f"it was measured on `{certificate.device.name}`, and this is `{device.name}`",
            hint="run `tilth build` on this machine",
        )
    return build, certificate


def _check_version(certificate: Certificate, build: Build, installed: str) -> None:
    wanted = certificate.versions.get(build.engine)
    if wanted != installed:
        raise RefusedError(
            f"the build was certified with {build.engine} {wanted}",
            why=f"{build.engine} {installed} is installed, and may answer or run differently",
            hint=f"run `tilth build` again, or install {build.engine} {wanted}",
        )


def _check_placement(certified: Placement, found: Placement, build: Build) -> None:
    if found.fallback_share > certified.fallback_share or set(found.nodes) - set(certified.nodes):
        raise RefusedError(
            f"`{build.label}` would run elsewhere than its certificate says",
            why=f"certified on {dict(certified.nodes)}, and {found.source} says {dict(found.nodes)}",
            hint="run `tilth doctor`, then `tilth build` again",
        )


def _warm(session: Session, bundle: Bundle) -> None:
    """Run the smallest golden case once, so that shapes are compiled and placement is of what will run."""
    inputs = min(map(bundle.inputs, range(len(bundle.manifest.golden.cases))), key=_elements)
    session.run(inputs)


def _elements(values: Values) -> int:
    return sum(value.size for value in values.values() if isinstance(value, np.ndarray))


Quick = list[tuple[str, Any, int, list[tuple[int, int]]]]


def _quick_checks(signature: Signature) -> Quick | None:
    """Return name, dtype, rank and fixed sizes of every input; None when only the full check can tell."""
    found: Quick = []
    for spec in signature.inputs:
        if spec.container != "tensor" or spec.dtype == "string" or spec.shape is None:
            return None
        sizes = [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, int)]
        found.append((spec.name, np.dtype(spec.dtype), len(spec.shape), sizes))
    return found


def _same_sizes(signature: Signature) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Return pairs of input and axis that share a symbol, and so have one size."""
    first: dict[str, tuple[str, int]] = {}
    pairs = []
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, str) and dim != "?":
                place = (spec.name, axis)
                if first.setdefault(dim, place) != place:
                    pairs.append((first[dim], place))
    return pairs
