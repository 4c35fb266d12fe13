"""A version's certificates as rows and a drawing: which build won, by how much, and where it ran."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tilth.bridge.manifest import decode_manifest
from tilth.control.console.chart import Measured, Scatter, decades, scatter
from tilth.control.console.words import ms, percent, small
from tilth.control.intake.bundle import candidates
from tilth.control.intake.inspection import verified
from tilth.core.bundle import Manifest
from tilth.core.certificate import Certificate, Timing
from tilth.ports.blob_store import BlobStore

_MOST_KEPT = 32
_MOST_KERNELS = 12


@dataclass(frozen=True)
class Share:
    """How many nodes ran in a place, and what part of all that is, in percent from 0; `start` is where it begins."""

    name: str
    nodes: int
    percent: float
    start: float
    is_elsewhere: bool = False


@dataclass(frozen=True)
class Row:
    """A candidate. `number` counts from 1; `timing` is at the smallest batch size that all of its target share."""

    number: int
    build: str
    label: str
    engine: str
    precision: str
    agrees: bool
    wins: Sequence[str]
    reasons: Sequence[str]
    certificate: Certificate | None
    timing: Timing | None
    best: Timing | None
    units: Sequence[Share]
    kernels: Sequence[Share]

    @property
    def verdict(self) -> str:
        """One word for what became of it."""
        if self.certificate is None:
            return "refused"
        if self.wins:
            return "chosen"
        return "agrees" if self.agrees else "differs"


@dataclass(frozen=True)
class Target:
    """All candidates for a class of chip, best first, and the drawing of those that were measured."""

    name: str
    device: str
    batch: int
    rows: Sequence[Row]
    drawing: Scatter | None
    tolerance: str

    @property
    def winner(self) -> Row | None:
        """The build that answers a request by itself."""
        return next((row for row in self.rows if row.wins), None)

    @property
    def refused(self) -> Sequence[Row]:
        """The rows that have none."""
        return [row for row in self.rows if row.certificate is None]

    @property
    def measured(self) -> Sequence[Row]:
        """The rows that have a certificate."""
        return [row for row in self.rows if row.certificate is not None]


@dataclass(frozen=True)
class Evidence:
    """What a bundle says of itself beyond its summary."""

    targets: Sequence[Target]
    notes: Mapping[str, str]
    source_notes: Sequence[str]
    cases: int
    tilth: str


class Figures:
    """Reads bundles out of a store; a bundle never changes, so that the last few are kept."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.of: Callable[[str], Evidence] = lru_cache(_MOST_KEPT)(self._read)

    def _read(self, digest: str) -> Evidence:
        """Return the evidence in a bundle.

        Raises:
            UntrustedError: its manifest is damaged.
            MissingError: its manifest is not in the store.
        """
        return evidence(decode_manifest(verified(self._blobs, digest)))


def evidence(manifest: Manifest) -> Evidence:
    """Return what a manifest says of its builds, by target."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for one in candidates(manifest):
        grouped.setdefault(one["target"], []).append(one)
    targets = [_target(name, found) for name, found in grouped.items()]
    targets.sort(key=lambda one: (not one.measured, one.name))
    return Evidence(targets, manifest.notes, manifest.source.notes, len(manifest.golden.cases), manifest.tilth)


def _target(name: str, found: Sequence[dict[str, Any]]) -> Target:
    measured: list[Certificate] = [one["certificate"] for one in found if one["certificate"] is not None]
    batch = min((timing.batch for one in measured for timing in one.timings), default=1)
    ordered = sorted(found, key=lambda one: _rank(one, batch))
    rows = [_row(number, one, batch) for number, one in enumerate(ordered, 1)]
    device = next((one.device.name for one in measured), "")
    tolerance = next((one.tolerance for one in measured if one.tolerance), "")
    return Target(name or "no target", device, batch, rows, _drawing(rows), tolerance)


def _rank(one: Mapping[str, Any], batch: int) -> tuple[int, float, str]:
    """Chosen for the smallest batch first, then others that are chosen, then by time; refused last."""
    certificate: Certificate | None = one["certificate"]
    if certificate is None:
        return (4, 0.0, one["label"])
    timing = _timing(certificate, batch)
    time = timing.p50_ms if timing else float("inf")
    if any(text.endswith(f"at batch {batch}") for text in one["chosen"]):
        return (0, time, one["label"])
    if one["chosen"]:
        return (1, time, one["label"])
    return (2 if one["agrees"] else 3, time, one["label"])


def _row(number: int, one: Mapping[str, Any], batch: int) -> Row:
    certificate: Certificate | None = one["certificate"]
    timings = certificate.timings if certificate else ()
    return Row(
        number=number,
        build=one["build"],
        label=one["label"],
        engine=one["engine"],
        precision=one["precision"],
        agrees=one["agrees"],
        wins=one["chosen"],
        reasons=[text for text in one["reason"].split("; ") if text],
        certificate=certificate,
        timing=_timing(certificate, batch) if certificate else None,
        best=max(timings, key=lambda timing: timing.rows_per_s, default=None),
        units=_shares(certificate.placement.nodes, certificate.placement.asked) if certificate else (),
        kernels=_shares(certificate.placement.kernels)[:_MOST_KERNELS] if certificate else (),
    )


def _timing(certificate: Certificate, batch: int) -> Timing | None:
    return next((one for one in certificate.timings if one.batch == batch), None)


def _shares(nodes: Mapping[str, int], asked: str = "") -> list[Share]:
    total, start, made = sum(nodes.values()), 0.0, []
    for name, number in sorted(nodes.items(), key=lambda item: (item[0] != asked, -item[1], item[0])):
        if not number:
            continue
        part = 100 * number / total
        made.append(Share(name, number, round(part, 2), round(start, 2), bool(asked) and name != asked))
        start += part
    return made


def _drawing(rows: Sequence[Row]) -> Scatter | None:
    shown = [
        Measured(
            row.number,
            row.timing.p50_ms,
            min(row.certificate.agreement.max_rel, 1e6),
            row.agrees,
            row.wins,
            _told(row, row.certificate, row.timing),
        )
        for row in rows
        if row.certificate is not None and row.timing is not None
    ]
    if not shown:
        return None
    errors = decades([one.error for one in shown])
    words = {value: small(value) for value in errors}
    if any(one.error == 0 for one in shown):
        words = {min(errors) / 10: "0"} | words
    return scatter(shown, {value: ms(value) for value in decades([one.latency_ms for one in shown])}, words)


def _told(row: Row, certificate: Certificate, timing: Timing) -> str:
    error, same = small(certificate.agreement.max_rel), percent(100 * certificate.agreement.decisions)
    won = f"; chosen for {', '.join(row.wins)}" if row.wins else ""
    return f"{row.number}. {row.label}: {ms(timing.p50_ms)}, error {error}, {same} of decisions equal{won}"
