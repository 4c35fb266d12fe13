"""Which parts of a model stay float so that its int8 version keeps within an error; measured, part by part."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from onnx import ModelProto, save_model

from tilth.bridge.agreement import compare
from tilth.bridge.calibrate import Load
from tilth.bridge.disk import sibling
from tilth.bridge.int8 import Quantizer
from tilth.bridge.int8_plan import Site
from tilth.ports.arrays import Value, Values

#: More parts find a better split and take longer: each is measured in a session of its own.
_PARTS = 12
#: Rows that errors are measured on.
_ROWS = 4
_MOST_TRIES = 6


@dataclass(frozen=True)
class Part:
    """Sites that follow one another: their products per row, and the squared error when only they are int8."""

    sites: tuple[Site, ...]
    products: int
    squared_error: float = 0.0


def keep_within(
    error: float, model: ModelProto, folder: Path, inputs: Sequence[Values], load: Load
) -> ModelProto | None:
    """Return an int8 version whose rms relative error on calibration inputs is at most `error`.

    None when everything can be int8 within that error, which needs no second version, or when nothing can.

    Raises:
        UnsupportedError: the model's operator set is too old.
        InvalidError: an activation or a weight is NaN or infinite.
    """
    work = Quantizer(model, folder, inputs, load)
    bench = _Bench(model, folder, inputs, load)
    if not work.sites or bench.error(work.made(work.sites)) <= error:
        return None
    split = parts(work.sites, work.products)
    tried = [Part(one.sites, one.products, bench.error(work.made(one.sites)) ** 2) for one in split]
    return _largest(error, tried, work, bench)


def _largest(error: float, tried: Sequence[Part], work: Quantizer, bench: "_Bench") -> ModelProto | None:
    """Return the version with the most products in int8 that was found to keep within `error`."""
    budget, best, most = error**2, None, 0
    seen = [list(tried)]
    for _ in range(_MOST_TRIES):
        kept = within(tried, budget)
        if not kept or kept in seen:
            break
        seen.append(kept)
        made = work.made(list(chain.from_iterable(part.sites for part in kept)))
        found = bench.error(made)
        products = sum(part.products for part in kept)
        if found <= error and products > most:
            best, most = made, products
        # Errors of parts do not add up exactly: what they added up to here tells how much there is room for.
        budget = sum(part.squared_error for part in kept) * 0.9 * (error / max(found, 1e-12)) ** 2
    return best


def parts(sites: Sequence[Site], products: Mapping[str, int]) -> list[Part]:
    """Return `sites` in at most 12 parts with about as many products each."""
    share = sum(products[site.name] for site in sites) / _PARTS
    found: list[list[Site]] = [[]]
    count = 0
    for site in sites:
        if found[-1] and count + products[site.name] / 2 > share * len(found):
            found.append([])
        found[-1].append(site)
        count += products[site.name]
    return [Part(tuple(one), sum(products[site.name] for site in one)) for one in found]


def within(tried: Sequence[Part], budget: float) -> list[Part]:
    """Return the parts that stay, in order, when those with the most error per product go until `budget` holds."""
    kept = list(tried)
    for worst in sorted(tried, key=lambda part: -part.squared_error / max(1, part.products)):
        if sum(part.squared_error for part in kept) <= budget:
            break
        kept.remove(worst)
    return kept


class _Bench:
    """Compares versions of a model with the float one on the last calibration inputs."""

    def __init__(self, model: ModelProto, folder: Path, inputs: Sequence[Values], load: Load) -> None:
        self._folder, self._inputs, self._load = folder, inputs[-_ROWS:], load
        self._float = self._outputs(model)

    def error(self, model: ModelProto) -> float:
        """Return the largest rms relative error of an output."""
        found = self._outputs(model)
        return compare(list(zip(found, self._float, strict=True))).rms_rel

    def _outputs(self, model: ModelProto) -> list[dict[str, Value]]:
        with sibling(self._folder / "version.onnx", folder=False) as path:
            save_model(model, path)
            session = self._load(path)
        with closing(session):
            return [session.run(values) for values in self._inputs]
