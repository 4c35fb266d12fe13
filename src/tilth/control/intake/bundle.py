"""A bundle out of blobs: everything that can be checked without opening a graph, and what lists say of it; pure."""

from collections.abc import Mapping
from typing import Any

from tilth.core.build import Build
from tilth.core.bundle import Choice, Manifest
from tilth.core.certificate import Certificate
from tilth.core.errors import MissingError, UntrustedError
from tilth.core.signature import TensorSpec

_MOST_SHOWN = 64


def check_blobs(manifest: Manifest, found: Mapping[str, int]) -> None:
    """Return when all blobs of a manifest are there, with the sizes that it says.

    Raises:
        MissingError: some are not.
        UntrustedError: one has another size.
    """
    missing = sorted(manifest.blobs.keys() - found.keys())
    if missing:
        raise MissingError(
            f"blob {missing[0][:12]} of the bundle is not here",
            why=f"{len(missing)} of {len(manifest.blobs)} blobs were not uploaded to this project",
            hint="upload them, then register the bundle again",
        )
    for digest, size_bytes in manifest.blobs.items():
        if found[digest] != size_bytes:
            raise UntrustedError(
                f"blob {digest[:12]} has {found[digest]} bytes",
                why=f"the manifest says {size_bytes}",
                hint="the manifest was altered; make the bundle again",
            )


def summary(manifest: Manifest) -> dict[str, Any]:
    """Return what lists and overviews say of a bundle."""
    builds = {build.id: build for build in manifest.builds}
    measured = {certificate.build: certificate for certificate in manifest.certificates}
    chosen = [_chosen(one, builds.get(one.build), measured.get(one.build)) for one in manifest.choices[:_MOST_SHOWN]]
    return {
        "name": manifest.name[:200],
        "framework": manifest.source.framework[:60],
        "framework_version": manifest.source.version[:60],
        "made_at": manifest.created_at[:40],
        "inputs": [_tensor(one) for one in manifest.signature.inputs[:_MOST_SHOWN]],
        "outputs": [_tensor(one) for one in manifest.signature.outputs[:_MOST_SHOWN]],
        "nodes": manifest.graph.nodes,
        "weights_bytes": manifest.graph.weights_bytes,
        "golden": manifest.golden.origin,
        "builds": len(manifest.builds),
        "agree": sum(certificate.agrees for certificate in manifest.certificates),
        "refused": len(manifest.refused),
        "chosen": chosen,
    }


def candidates(manifest: Manifest) -> list[dict[str, Any]]:
    """Return every candidate: builds with what was measured of them, then those that could not be made."""
    measured = {certificate.build: certificate for certificate in manifest.certificates}
    return [_candidate(build, measured.get(build.id), manifest.choices) for build in manifest.builds] + [
        {
            "build": "",
            "label": one.label,
            "target": one.target,
            "engine": one.label.partition(" ")[0],
            "precision": "",
            "agrees": False,
            "chosen": [],
            "reason": "; ".join(f"{refusal.reason} ({refusal.verdict.value})" for refusal in one.refusals),
            "certificate": None,
        }
        for one in manifest.refused
    ]


def _candidate(build: Build, certificate: Certificate | None, choices: tuple[Choice, ...]) -> dict[str, Any]:
    own = [choice for choice in choices if choice.target == build.target]
    chosen = [f"{choice.goal} at batch {choice.batch}" for choice in own if choice.build == build.id]
    chosen += ["waiting calls"] if any(choice.busy == build.id for choice in own) else []
    reasons = [choice.reasons[build.id] for choice in own if build.id in choice.reasons]
    return {
        "build": build.id,
        "label": build.label,
        "target": build.target,
        "engine": build.engine,
        "precision": build.precision.value,
        "agrees": certificate is not None and certificate.agrees,
        "chosen": chosen,
        "reason": "; ".join(dict.fromkeys(reasons + list(certificate.reasons if certificate else ()))),
        "certificate": certificate,
    }


def _chosen(choice: Choice, build: Build | None, certificate: Certificate | None) -> dict[str, Any]:
    made: dict[str, Any] = {"target": choice.target, "goal": choice.goal, "batch": choice.batch}
    if build is not None:
        made["label"] = build.label
    if certificate is not None:
        made |= {"device": certificate.device.name, "max_rel": certificate.agreement.max_rel}
        timing = next((one for one in certificate.timings if one.batch == choice.batch), None)
        if timing is not None:
            made |= {"p50_ms": timing.p50_ms, "rows_per_s": timing.rows_per_s}
    return made


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name[:200],
        "dtype": spec.dtype,
        "shape": None if spec.shape is None else list(spec.shape[:32]),
    }
