"""`tilth explain`: every candidate, its figures, and why it won or lost."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tilth.bridge.bundle_read import open_bundle
from tilth.cli.output import AsJson, emit, table
from tilth.cli.plain import visible
from tilth.core.build import Build, Precision
from tilth.core.bundle import Choice, Manifest
from tilth.core.certificate import INFINITE, Certificate
from tilth.core.errors import MissingError
from tilth.core.record import to_json

#: Labels beyond this wrap: kept on one line they would push the reasons off the screen.
_LONGEST_LABEL = 48


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle that was built.")],
    as_json: AsJson = False,
) -> None:
    """Show every candidate with its figures, and why it won or lost.

    `ratio` is the median time over that of the first candidate, block by block side by side. `error` is the largest
    relative error against the golden outputs; `rms` is shown instead where lower precisions were tried. --json has
    every figure of every certificate.

    Raises:
        MissingError: the bundle has not been built.
    """
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    if not manifest.certificates and not manifest.refused:
        raise MissingError(
            f"`{bundle}` has no builds yet", why="nothing was measured", hint=f"run `tilth build {bundle}`"
        )
    emit(_data(manifest), as_json, lambda: report(manifest, str(bundle)))


def report(manifest: Manifest, path: str, *, cached: bool = False) -> RenderableType:
    """Return what a person wants to know after a build: the table, the refusals, the choice."""
    parts: list[RenderableType] = []
    for target in sorted({b.target for b in manifest.builds} | {r.target for r in manifest.refused}):
        choice = next((c for c in manifest.choices if c.target == target), None)
        parts += [Text(visible(line)) for line in _head(manifest, target, choice, cached)]
        parts.append(_candidates(manifest, target, choice))
        parts += _refusals(manifest, target)
        parts += _verdict(manifest, choice, path)
    return Group(*parts)


def _head(manifest: Manifest, target: str, choice: Choice | None, cached: bool) -> list[str]:
    certificate = next((c for c in manifest.certificates if c.device.target == target), None)
    name = visible(certificate.device.name) if certificate else target
    goal = choice.goal if choice else "latency"
    when = f", measured {certificate.measured_at[:16].replace('T', ' ')} UTC" if certificate else ""
    return [f"{visible(manifest.name)} on {target} ({name}), for {goal}{when}{' (from the cache)' if cached else ''}"]


def _candidates(manifest: Manifest, target: str, choice: Choice | None) -> RenderableType:
    by_id = {c.build: c for c in manifest.certificates}
    builds = [b for b in manifest.builds if b.target == target and b.id in by_id]
    builds.sort(key=lambda b: _rank(b, by_id[b.id], choice))
    task = next((c.task.metric for c in by_id.values() if c.task is not None), "same")
    # What bounds lower precisions is worth a column only where there are some.
    low = any(b.precision is not Precision.FP32 for b in builds)
    numbers = ("p50 ms", "ratio", "rows/s", *(("rms",) if low else ("error",)), task, "memory")
    rows = [_row(b, by_id[b.id], choice, low=low) for b in builds]
    made = table(("candidate", *numbers, "why not"), rows, right=numbers)
    made.columns[0].no_wrap = all(len(row[0]) <= _LONGEST_LABEL for row in rows)
    made.columns[-1].min_width = 17
    return made


def _rank(build: Build, certificate: Certificate, choice: Choice | None) -> tuple[bool, bool, float]:
    won = choice is not None and build.id == choice.build
    ratio = certificate.timings[0].ratio if certificate.timings else INFINITE
    return (not won, not certificate.agrees, ratio)


def _row(build: Build, certificate: Certificate, choice: Choice | None, *, low: bool) -> tuple[str, ...]:
    won = choice is not None and build.id == choice.build
    timing = certificate.timings[0] if certificate.timings else None
    best = max((t.rows_per_s for t in certificate.timings), default=0.0)
    agreement = certificate.agreement
    return (
        f"* {build.label}" if won else f"  {build.label}",
        f"{timing.p50_ms:.3g}" if timing else "-",
        f"{timing.ratio:.2f}" if timing else "-",
        f"{best:,.0f}" if best else "-",
        _error(agreement.rms_rel if low else agreement.max_rel),
        f"{agreement.decisions:.1%}" if certificate.task is None else f"{certificate.task.build:.2%}",
        f"{certificate.peak_memory_bytes / (1 << 20):.0f} MiB",
        "" if won or choice is None else choice.reasons.get(build.id, ""),
    )


def _error(value: float) -> str:
    return "infinite" if value >= INFINITE else f"{value:.1e}" if value else "0"


def _refusals(manifest: Manifest, target: str) -> list[Text]:
    labels: dict[str, list[str]] = {}
    for refused in manifest.refused:
        if refused.target == target:
            reason = "; ".join(f"{one.reason} ({one.verdict.value})" for one in refused.refusals)
            labels.setdefault(reason, []).append(refused.label)
    lines = [f"  {_several(names)}: {reason}" for reason, names in labels.items()]
    return [Text("refused:"), *(Text(visible(line)[:400]) for line in lines)] if lines else []


def _several(labels: list[str]) -> str:
    """Return one label, or the first and how many more share its fate."""
    return labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"


def _verdict(manifest: Manifest, choice: Choice | None, path: str) -> list[Text]:
    if choice is None:
        return [Text("no candidate agrees; `--tolerance` accepts a larger difference")]
    build = next(b for b in manifest.builds if b.id == choice.build)
    certificate = next(c for c in manifest.certificates if c.build == choice.build)
    ran = ", ".join(f"{count} nodes on {unit}" for unit, count in certificate.placement.nodes.items())
    lines = [
        f"chosen: {build.label} at batch {choice.batch} ({ran}, fallback {certificate.placement.fallback_share:.0%})"
    ]
    busy = next((c.lanes for c in manifest.certificates if choice.busy and c.build == choice.busy), None)
    if busy is not None:
        lines.append(f"while calls wait: {busy.count} at a time, {busy.rows_per_s:,.0f} rows/s ({busy.gain:.2f} x)")
    if choice.noisy:
        lines.append("the machine was busy: differences of a few per cent could not be told; run it again when idle")
    lines.append(f"next: tilth run {path} --input inputs.npz --output outputs.npz")
    return [Text(visible(line)) for line in lines]


def _data(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "choices": to_json(manifest.choices),
        "builds": [{"id": b.id, "label": b.label, **to_json(b)} for b in manifest.builds],
        "certificates": to_json(manifest.certificates),
        "refused": to_json(manifest.refused),
    }
