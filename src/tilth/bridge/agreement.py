"""How close two sets of outputs are, and whether that is close enough; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.core.build import Precision
from tilth.core.certificate import INFINITE, Agreement
from tilth.ports.arrays import Array, Value

FP32_REL = 1e-4


@dataclass(frozen=True)
class Tolerance:
    """What a build may differ by.

    `rel` bounds `Agreement.max_rel` for fp32 builds. `rms` bounds `Agreement.rms_rel`, and one minus it the
    share of equal decisions, for builds of lower precision; None means that there are no such builds.
    """

    rel: float = FP32_REL
    rms: float | None = None

    def __str__(self) -> str:
        text = f"fp32: relative error <= {self.rel:g}"
        if self.rms is not None:
            text += f"; lower: rms relative error <= {self.rms:g}, decisions >= {1 - self.rms:g}"
        return text

    def objections(self, agreement: Agreement, precision: Precision) -> list[str]:
        """Return every reason why this agreement is not enough; empty when it is."""
        if precision is Precision.FP32:
            return _fp32_objections(agreement, self.rel)
        if self.rms is None:
            return [f"{precision.value} was not asked for"]
        found = []
        if not agreement.rms_rel <= self.rms:
            found.append(f"rms relative error {agreement.rms_rel:.2g} > {self.rms:g}")
        if not agreement.decisions >= 1 - self.rms:
            found.append(f"{agreement.decisions:.2%} of decisions agree, {1 - self.rms:.2%} wanted")
        return found


def _fp32_objections(agreement: Agreement, rel: float) -> list[str]:
    found = []
    if not agreement.max_rel <= rel:
        found.append(f"relative error {agreement.max_rel:.2g} > {rel:g}")
    if agreement.exact < 1:
        found.append(f"{1 - agreement.exact:.2%} of the values that are not floats differ")
    return found


def compare(pairs: Sequence[tuple[Mapping[str, Value], Mapping[str, Value]]]) -> Agreement:
    """Return the agreement of outputs with golden outputs over cases, each a pair (build's, golden).

    NaN agrees with NaN and an infinity with itself; anything else beside them is an infinite error. A missing output
    or another shape is an infinite error too.
    """
    tally = _Tally()
    for found, wanted in pairs:
        tally.rows += _rows(wanted)
        for name, golden in wanted.items():
            tally.add(found.get(name), golden)
    return tally.result()


def _rows(outputs: Mapping[str, Value]) -> int:
    first = next(iter(outputs.values()), None)
    return int(first.shape[0]) if isinstance(first, np.ndarray) and first.ndim else 1


class _Tally:
    def __init__(self) -> None:
        self.rows = 0
        self.max_abs = self.max_rel = 0.0
        self.cosine = 1.0
        self.square_error = self.square = 0.0
        self.rms_rel = 0.0
        self.equal_decisions = self.decisions = self.equal = self.others = 0

    def add(self, found: Value, golden: Value) -> None:
        if golden is None or isinstance(golden, np.ndarray):
            pairs = [(found, golden)]
        else:
            items = found if isinstance(found, list | tuple) and len(found) == len(golden) else [None] * len(golden)
            pairs = list(zip(items, golden, strict=True))
        for one, other in pairs:
            self._add_array(one, other)

    def _add_array(self, found: Value, golden: Value) -> None:
        if golden is None:
            self._count_equal(np.array(found is None), np.array(True))
        elif not isinstance(found, np.ndarray | np.generic) or np.shape(found) != np.shape(golden):
            self.max_abs = self.max_rel = self.rms_rel = INFINITE
            self.cosine, self.others = 0.0, self.others + 1
        elif np.asarray(golden).dtype.kind in "fc":
            self._add_floats(np.asarray(found), np.asarray(golden))
        else:
            self._count_equal(np.asarray(found), np.asarray(golden))

    def _count_equal(self, found: Array, golden: Array) -> None:
        same = int(np.sum(found == golden))
        self.equal += same
        self.others += golden.size
        self.equal_decisions += same
        self.decisions += golden.size

    def _add_floats(self, found: Array, golden: Array) -> None:
        wide = np.complex128 if golden.dtype.kind == "c" else np.float64
        a, b = found.astype(wide).ravel(), golden.astype(wide).ravel()
        if golden.ndim >= 2 and golden.shape[-1] > 1 and golden.size:
            same = np.argmax(found, axis=-1) == np.argmax(golden, axis=-1)
            self.equal_decisions += int(same.sum())
            self.decisions += same.size
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        if not np.all(finite | alike):
            self.max_abs = self.max_rel = self.rms_rel = INFINITE
            self.cosine = 0.0
            return
        self._add_finite(a[finite], b[finite])

    def _add_finite(self, a: Array, b: Array) -> None:
        if not a.size:
            return
        error = np.abs(a - b)
        norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        rms = norm_b / np.sqrt(b.size)
        self.max_abs = max(self.max_abs, float(error.max()))
        floor = np.maximum(np.abs(b), max(rms, np.finfo(np.float64).tiny))
        self.max_rel = max(self.max_rel, float((error / floor).max()))
        if norm_b > 0:
            self.rms_rel = max(self.rms_rel, float(np.linalg.norm(error)) / norm_b)
            if norm_a > 0:
                self.cosine = min(self.cosine, abs(float(np.vdot(a / norm_a, b / norm_b))))
            else:
                self.cosine = 0.0
        elif norm_a > 0:
            self.rms_rel, self.cosine = INFINITE, 0.0

    def result(self) -> Agreement:
        return Agreement(
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            rms_rel=self.rms_rel,
            cosine=min(1.0, self.cosine),
            decisions=self.equal_decisions / self.decisions if self.decisions else 1.0,
            exact=self.equal / self.others if self.others else 1.0,
            rows=self.rows,
        )
