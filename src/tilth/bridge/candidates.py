"""Every candidate that the engines offer for a graph on a device, and every refusal."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tilth.bridge.measure.worker import WorkerFailed
from tilth.bridge.request import Request
from tilth.bridge.variants import Kitchen, Variant
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.bundle import Refused
from tilth.core.device import Device
from tilth.core.errors import MissingError
from tilth.core.graph import Graph
from tilth.ports.engine import Engine, Option

#: The lower the precision, the faster; an interrupt or a small budget should find what promises most measured.
_PROMISE = (Precision.INT8, Precision.BF16, Precision.FP16, Precision.FP32)
#: Says why a build is not to be made, or None when it is.
WhyNot = Callable[[Build, Option], Refusal | None]


@dataclass(frozen=True)
class Candidate:
    """A build that is not measured yet, and the graph that it loads."""

    build: Build
    variant: Variant


class Candidates:
    """Collects candidates; `refused` holds the reason for each that was not made, `total` how many were offered."""

    def __init__(self, graph: Graph, device: Device, request: Request, kitchen: Kitchen) -> None:
        self._graph, self._device, self._request, self._kitchen = graph, device, request, kitchen
        self.refused: list[Refused] = []
        self.total = 0
        self._failed: dict[str, WorkerFailed] = {}

    def of(
        self,
        engines: Mapping[str, Engine],
        recipe_s: Callable[[], float],
        why_not: WhyNot = lambda build, option: None,
    ) -> Iterator[Candidate]:
        """Yield the candidates of every engine, the engines' own defaults first; `total` bounds how many.

        Each variant is made when its first candidate is due, in at most the seconds that `recipe_s` answers then. A
        build that `why_not` objects to when its turn comes is refused before anything is made for it.
        """
        offered = [pair for engine in engines.values() for pair in self._options(engine)]
        offered.sort(key=lambda pair: _turn(pair[1]))  # stable: engines keep their order
        self.total = len(offered)
        made: set[str] = set()
        for engine, option in offered:
            candidate = self._candidate(engine, option, recipe_s, why_not)
            if candidate is not None and candidate.build.id not in made:
                made.add(candidate.build.id)
                yield candidate

    def _options(self, engine: Engine) -> list[tuple[Engine, Option]]:
        try:
            engine.version()
        except MissingError as error:
            self._refuse(engine.name, Refusal(Verdict.TODO, f"{error.what}; {error.hint}"))
            return []
        options = engine.options(self._graph, self._device, self._request.precisions)
        if not options:
            asked = ", ".join(self._request.precisions)
            never = Refusal(Verdict.NEVER, f"it offers nothing at {asked}")
            refusals = engine.refusals(self._graph, self._device) or [never]
            self.refused.append(Refused(engine.name, tuple(refusals), self._device.target))
        return [(engine, one) for one in options]

    def _candidate(
        self, engine: Engine, option: Option, recipe_s: Callable[[], float], why_not: WhyNot
    ) -> Candidate | None:
        build = Build(
            graph=self._graph.digest,
            target=self._device.target,
            engine=engine.name,
            precision=option.precision,
            recipe=option.recipe,
            settings=option.settings,
        )
        objection = why_not(build, option)
        if objection is not None:
            self._refuse(build.label, objection)
            return None
        try:
            variant = self._variant(option.recipe, recipe_s())
        except WorkerFailed as error:
            self._refuse(build.label, Refusal(Verdict.TODO, error.reason), error.last_words)
            return None
        if variant is None and option.precision is not Precision.INT8:
            # Nothing to make leaner: the same settings on the graph as it is.
            build, variant = replace(build, recipe="plain"), self._kitchen.plain
        if variant is None:
            self._refuse(build.label, Refusal(Verdict.NEVER, f"recipe `{option.recipe}` changes nothing in this graph"))
            return None
        refusals = engine.refusals(variant.graph, self._device)
        if refusals:
            self.refused.append(Refused(build.label, tuple(refusals), self._device.target))
            return None
        return Candidate(replace(build, variant=variant.graph.digest), variant)

    def _variant(self, recipe: str, timeout_s: float) -> Variant | None:
        if recipe in self._failed:
            raise self._failed[recipe]
        try:
            return self._kitchen.make(recipe, timeout_s)
        except WorkerFailed as error:
            self._failed[recipe] = error
            raise

    def _refuse(self, label: str, refusal: Refusal, last_words: str = "") -> None:
        self.refused.append(Refused(label, (refusal,), self._device.target, last_words))


def _turn(option: Option) -> tuple[bool, bool, int, bool, str]:
    # One recipe after the other, so that children make room for each only once.
    promise = _PROMISE.index(option.precision)
    as_it_is = option.recipe == "plain" and option.precision is Precision.FP32
    return (not option.hopeful, not as_it_is, promise, bool(option.instead_of), option.recipe)
