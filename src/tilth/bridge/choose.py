"""Which build to use for a target, and why not each other one; pure."""

from collections.abc import Mapping, Sequence
from typing import Literal

from tilth.bridge.measure.timing import NOISY
from tilth.core.build import Build
from tilth.core.bundle import Choice
from tilth.core.certificate import Certificate, Timing
from tilth.core.errors import RefusedError

Goal = Literal["latency", "throughput"]

#: Builds closer than this are as fast as one another; no user sees the difference and no machine repeats it.
TIE = 0.01


def choose(
    target: str, builds: Sequence[Build], certificates: Mapping[str, Certificate], goal: Goal = "latency"
) -> Choice:
    """Return the fastest build that agrees, with the reason for every loser by build id.

    For latency a build counts by its time at the smallest batch that was measured, for throughput by its best rows
    per second at any batch. Ties go to the smaller error, then the label: the same measurements must always give the
    same choice, or a rebuild would change what a customer runs.

    Raises:
        RefusedError: no build agrees.
    """
    able = [b for b in builds if b.id in certificates and certificates[b.id].agrees and certificates[b.id].timings]
    if not able:
        raise _nothing_agrees(target, builds, certificates)
    best = min(able, key=lambda b: _cost(certificates[b.id], goal))
    limit = _cost(certificates[best.id], goal) * (1 + TIE)
    tied = [b for b in able if _cost(certificates[b.id], goal) <= limit]
    winner = min(tied, key=lambda b: (_error(certificates[b.id]), b.label, b.id))
    reasons = {
        b.id: _why_not(b, winner, certificates.get(b.id), certificates[winner.id], goal)
        for b in builds
        if b.id != winner.id
    }
    timing = _timing(certificates[winner.id], goal)
    return Choice(target, goal, winner.id, timing.batch, reasons, timing.noise > NOISY)


def _timing(certificate: Certificate, goal: Goal) -> Timing:
    if goal == "throughput":
        return max(certificate.timings, key=lambda t: t.rows_per_s)
    return min(certificate.timings, key=lambda t: t.batch)


def _cost(certificate: Certificate, goal: Goal) -> float:
    timing = _timing(certificate, goal)
    if goal == "throughput":
        return 1 / timing.rows_per_s
    # The ratio to the anchor was measured side by side; the plain median carries the weather of its minute.
    return timing.ratio


def _error(certificate: Certificate) -> float:
    return certificate.agreement.rms_rel


def _why_not(build: Build, winner: Build, own: Certificate | None, best: Certificate, goal: Goal) -> str:
    if own is None:
        return "never measured"
    if not own.agrees:
        return "; ".join(own.reasons)
    if own.lanes is not None and not own.timings:
        return f"{own.lanes.count} at a time: {own.lanes.gain:.2f} x the calls"
    if not own.timings:
        return "agrees, and was never timed"
    slower = _cost(own, goal) / _cost(best, goal)
    if slower <= 1 + TIE:
        return f"within {TIE:.0%}, error not smaller"
    return f"{slower:.2f} x the winner"


def _nothing_agrees(target: str, builds: Sequence[Build], certificates: Mapping[str, Certificate]) -> RefusedError:
    told = [f"{b.label}: {'; '.join(certificates[b.id].reasons)}" for b in builds if b.id in certificates]
    return RefusedError(
        f"no build for `{target}` agrees with the source framework",
        why=" | ".join(told[:6]) or "no engine could make one",
        hint="run `tilth explain` for every candidate; `--tolerance` accepts a larger difference",
    )
