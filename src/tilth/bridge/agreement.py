"""How close two sets of outputs are, and whether that is close enough; pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilth.core.build import Precision
from tilth.core.certificate import INFINITE, Agreement
from tilth.ports.arrays import Array, Value

FP32_REL = 1e-4
#: The step from 1 to the next float16. A bound below it would ask outputs of that type for equality.
_HALF_STEP = 2.0**-10

#: Outputs of a build, and the golden ones.
Pair = tuple[Mapping[str, Value], Mapping[str, Value]]


@dataclass(frozen=True)
class Tolerance:
    """What a build may differ by.

    `rel` bounds `Agreement.max_rel` for fp32 builds. `rms` bounds `Agreement.rms_rel`, and one minus it the
    share of equal decisions, for builds of lower precision and fp32 builds beyond `rel`; None allows neither.
    """

    rel: float = FP32_REL
    rms: float | None = None

    def __str__(self) -> str:
        text = f"fp32: relative error <= {self.rel:g}"
        if self.rms is not None:
            text += f"; else: rms relative error <= {self.rms:g}, decisions >= {1 - self.rms:g}"
        return text

    def objections(self, agreement: Agreement, precision: Precision) -> list[str]:
        """Return every reason why this agreement is not enough; empty when it is."""
        strict = [f"{precision.value} was not asked for"]
        if precision is Precision.FP32:
            strict = _fp32_objections(agreement, self.rel)
        return strict if self.rms is None or not strict else _rms_objections(agreement, self.rms)


def _fp32_objections(agreement: Agreement, rel: float) -> list[str]:
    found = []
    if not agreement.max_rel <= rel:
        found.append(f"relative error {agreement.max_rel:.2g} > {rel:g}")
    if agreement.exact < 1:
        found.append(f"{1 - agreement.exact:.2%} of the values that are not floats differ")
    return found


def _rms_objections(agreement: Agreement, rms: float) -> list[str]:
    found = []
    if not agreement.rms_rel <= rms:
        found.append(f"rms relative error {agreement.rms_rel:.2g} > {rms:g}")
    if not agreement.decisions >= 1 - rms:
        found.append(f"{agreement.decisions:.2%} of decisions agree, {1 - rms:.2%} wanted")
    return found


def objections(pairs: Sequence[Pair], tolerance: Tolerance, precision: Precision) -> list[str]:
    """Return every reason why outputs are too far from golden ones; empty when they are not.

    Outputs that the source framework gave as float16 are held to one step of that type where the bound is finer.
    """
    half = {name for _, golden in pairs for name, value in golden.items() if _is_half(value)}
    if not half:
        return tolerance.objections(compare(pairs), precision)
    wider = replace(tolerance, rel=max(tolerance.rel, _HALF_STEP))
    finer, coarser = ([(found, _only(golden, half, inside)) for found, golden in pairs] for inside in (False, True))
    return tolerance.objections(compare(finer), precision) + wider.objections(compare(coarser), precision)


def _is_half(value: Value) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, np.ndarray) and item.dtype == np.float16 for item in items)


def _only(values: Mapping[str, Value], names: set[str], inside: bool) -> dict[str, Value]:
    return {name: value for name, value in values.items() if (name in names) is inside}


def compare(pairs: Sequence[Pair]) -> Agreement:
    """Return the agreement of outputs with golden outputs over cases, each a pair (build's, golden).

    NaN agrees with NaN and an infinity with itself; anything else beside them is an infinite error. A missing output,
    another shape or another kind of element is an infinite error too. Precision may differ: a golden float64 can be
    compared with a float32.
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
        self.rms_rel = 0.0
        self.equal_decisions = self.decisions = self.equal = self.others = 0

    def add(self, found: Value, golden: Value) -> None:
        if golden is None or isinstance(golden, np.ndarray | np.generic):
            self._add_array(found, golden)
        elif not isinstance(found, list | tuple) or len(found) != len(golden):
            self._add_infinite()
        else:
            for one, other in zip(found, golden, strict=True):
                self._add_array(one, other)

    def _add_array(self, found: Value, golden: Value) -> None:
        if golden is None:
            self._count_equal(np.array(found is None), np.array(True))
        elif not isinstance(found, np.ndarray | np.generic) or not _comparable(np.asarray(found), np.asarray(golden)):
            self._add_infinite()
        elif np.asarray(golden).dtype.kind in "fc":
            self._add_floats(np.asarray(found), np.asarray(golden))
        else:
            self._count_equal(np.asarray(found), np.asarray(golden))

    def _add_infinite(self) -> None:
        self.max_abs = self.max_rel = self.rms_rel = INFINITE
        self.cosine, self.others, self.decisions = 0.0, self.others + 1, self.decisions + 1

    def _count_equal(self, found: Array, golden: Array) -> None:
        same = int(np.sum(found == golden))
        self.equal += same
        self.others += golden.size
        self.equal_decisions += same
        self.decisions += golden.size

    def _add_floats(self, found: Array, golden: Array) -> None:
        if golden.ndim == 2 and golden.shape[-1] > 1 and golden.size:
            same = np.argmax(found, axis=-1) == np.argmax(golden, axis=-1)
            self.equal_decisions += int(same.sum())
            self.decisions += same.size
        pieces = _Pieces(found, golden)
        size_a = size_b = 0.0
        for a, b, sound in pieces.all():
            if not sound:
                self.max_abs = self.max_rel = self.rms_rel = INFINITE
                self.cosine = 0.0
                return
            size_a, size_b = max(size_a, float(np.abs(a).max(initial=0))), max(size_b, float(np.abs(b).max(initial=0)))
        if size_a or size_b:
            self._add_cosine(pieces, size_a, size_b)
            self._add_errors(pieces, _power_of_two(max(size_a, size_b)))

    def _add_errors(self, pieces: "_Pieces", scale: float) -> None:
        # Scaled, by a power of two so that nothing is rounded: squares of very large and small numbers stay numbers.
        count, square_b, square_error = 0, 0.0, 0.0
        for a, b, _ in pieces.all():
            count += b.size
            square_b += float(np.vdot(b / scale, b / scale).real)
            error = np.abs(a / scale - b / scale)
            square_error += float(np.vdot(error, error))
            self.max_abs = max(self.max_abs, _bounded(float(error.max(initial=0)) * scale))
        least = max(math.sqrt(square_b / count), float(np.finfo(np.float64).tiny))
        for a, b, _ in pieces.all():
            error, floor = np.abs(a / scale - b / scale), np.maximum(np.abs(b / scale), least)
            with np.errstate(over="ignore"):
                self.max_rel = max(self.max_rel, _bounded(float((error / floor).max(initial=0))))
        self.rms_rel = (
            max(self.rms_rel, _bounded(math.sqrt(square_error) / math.sqrt(square_b))) if square_b > 0 else INFINITE
        )

    def _add_cosine(self, pieces: "_Pieces", size_a: float, size_b: float) -> None:
        if not size_a or not size_b:
            self.cosine = min(self.cosine, 0.0)
            return
        dot = square_a = square_b = 0.0
        for whole_a, whole_b, _ in pieces.all():
            a, b = whole_a / _power_of_two(size_a), whole_b / _power_of_two(size_b)
            dot += float(np.vdot(a, b).real)
            square_a += float(np.vdot(a, a).real)
            square_b += float(np.vdot(b, b).real)
        self.cosine = min(self.cosine, dot / (math.sqrt(square_a) * math.sqrt(square_b)))

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


class _Pieces:
    """Two arrays as short stretches of wide numbers: whole copies of large outputs would outweigh the model."""

    _LENGTH = 1 << 16

    def __init__(self, found: Array, golden: Array) -> None:
        self._found, self._golden = found.reshape(-1), golden.reshape(-1)
        self._wide = np.complex128 if golden.dtype.kind == "c" else np.float64

    def all(self) -> Iterator[tuple[Array, Array, bool]]:
        """Yield the finite values of both, and whether all others are alike."""
        for start in range(0, self._golden.size, self._LENGTH):
            a = self._found[start : start + self._LENGTH].astype(self._wide)
            b = self._golden[start : start + self._LENGTH].astype(self._wide)
            finite = np.isfinite(a) & np.isfinite(b)
            if finite.all():
                yield a, b, True
            else:
                yield a[finite], b[finite], bool(np.all(finite | (a == b) | (np.isnan(a) & np.isnan(b))))


def _power_of_two(size: float) -> float:
    return math.ldexp(0.5, math.frexp(size)[1])


def _bounded(error: float) -> float:
    return min(error, INFINITE) if error == error else INFINITE


def _comparable(found: Array, golden: Array) -> bool:
    if found.shape != golden.shape:
        return False
    if golden.dtype.kind in "fc":
        # A complex number is no answer where a real one is wanted: its imaginary part would be lost.
        return found.dtype.kind in "fiub" or found.dtype.kind == golden.dtype.kind
    return (found.dtype.kind in "OUS") == (golden.dtype.kind in "OUS")
