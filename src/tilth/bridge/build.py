"""From a bundle to the same bundle with measured, certified builds for one device."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilth.bridge.bundle_read import Bundle, open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.cache import Cache, key
from tilth.bridge.candidates import Candidate, Candidates
from tilth.bridge.certify import certificate
from tilth.bridge.choose import choose
from tilth.bridge.destination import check_destination
from tilth.bridge.lanes import before_s, block_s, divided, measure, pays
from tilth.bridge.measure.arena import Arena, Contender, Limits
from tilth.bridge.measure.worker import WorkerFailed
from tilth.bridge.progress_file import state_from_json, state_to_json
from tilth.bridge.request import Request, checked_data, checked_request
from tilth.bridge.search import Progress, Search, State, estimate_limits
from tilth.bridge.sight import Examiner, Sight, rows_at_once, write_pieces
from tilth.bridge.value_file import read_values, write_values
from tilth.bridge.variants import Kitchen, Variant
from tilth.core.blob import BlobSource, FileRange
from tilth.core.build import Build
from tilth.core.bundle import Choice, Manifest, Refused
from tilth.core.certificate import Certificate, Lanes
from tilth.core.device import Device
from tilth.core.digest import canonical_json, digest, digest_file
from tilth.core.errors import CancelledError, InvalidError, MissingError, RefusedError, UnavailableError, UntrustedError
from tilth.core.graph import Graph
from tilth.core.record import from_json, to_json
from tilth.ports.arrays import Value
from tilth.ports.engine import Engine

#: How often a bundle may be replaced by others between reading and writing.
_MOST_TRIES = 5
#: What `int8-mixed` aims for on calibration inputs, as a share of the tolerance: other inputs may come out worse.
_MIXED_SHARE = 0.75
#: Its aim where a task metric decides and nobody named an error.
_MIXED_ERROR = 0.05


@dataclass(frozen=True)
class Result:
    """What a search found for one target. `cached` says that nothing had to be measured again."""

    builds: tuple[Build, ...]
    certificates: tuple[Certificate, ...]
    refused: tuple[Refused, ...]
    graphs: tuple[Graph, ...]
    blobs: Mapping[str, int]
    choice: Choice | None
    cached: bool = False


@dataclass(frozen=True)
class Tools:
    """What a build works with: engines by name, commands that start children, a cache, and this Tilth's version."""

    engines: Mapping[str, Engine]
    measure: Sequence[str]
    derive: Sequence[str]
    cache: Cache
    tilth: str


def build(bundle: Bundle, device: Device, request: Request, tools: Tools, progress: Progress, folder: Path) -> "Built":
    """Search, certify and choose; return the new manifest and where each of its blobs lies.

    `folder` is an empty private folder; the blobs of variants lie in it until the caller has written the bundle.

    Raises:
        InvalidError: data for calibration or evaluation does not fit the signature.
        CancelledError: interrupted; what was measured is kept and a new call goes on.
        UnavailableError: the disk is full or no process can be started.
    """
    return _Builder(bundle, device, request, tools, progress, folder).run()


def build_file(
    path: Path, out: str | Path, device: Device, request: Request, tools: Tools, progress: Progress
) -> "Built":
    """Build the bundle at `path` and write the result at `out`, which may be the same place.

    Raises what `build` and `write_bundle` raise; the bundle at `out` is old or new as a whole. When another process
    replaces the bundle at `path` meanwhile, what was found is put into the new one.

    Raises:
        UnavailableError: the bundle at `path` is replaced again and again.
    """
    check_destination(out)
    for _ in range(_MOST_TRIES):
        # What was measured is in the cache, so that a second try costs nothing but the writing.
        built = _built_once(path, out, device, request, tools, progress)
        if built is not None:
            return built
    raise UnavailableError(
        f"`{path}` is replaced again and again", why="other processes write to it", hint="write elsewhere with `--out`"
    )


def _built_once(
    path: Path, out: str | Path, device: Device, request: Request, tools: Tools, progress: Progress
) -> "Built | None":
    """Return what was built and written, or None when the bundle at `path` was replaced before it could be."""
    folder = Path(tempfile.mkdtemp(prefix="tilth-"))
    try:
        with open_bundle(path) as bundle:
            built = build(bundle, device, request, tools, progress, folder)
            if built.manifest == bundle.manifest and _is_same(path, out) and _digest_at(path) == bundle.digest:
                return built
            progress("writing", 0, 1, str(out))
            try:
                if _digest_at(path) != bundle.digest:
                    return None
                write_bundle(out, built.manifest, built.blobs)
            except UntrustedError:
                # Blobs are copied from where they were found; another bundle may lie there by then.
                if _digest_at(path) == bundle.digest:
                    raise
                return None
            return built
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_same(path: Path, out: str | Path) -> bool:
    """Return whether `out` names what is at `path`, in the form that it has there."""
    return not str(out).endswith("/") and Path(out).exists() and path.samefile(out)


def _digest_at(path: Path) -> str:
    with open_bundle(path) as bundle:
        return bundle.digest


@dataclass(frozen=True)
class _Busy:
    """What was found out about calls side by side."""

    lane: Contender
    sight: Sight
    lanes: Lanes


@dataclass(frozen=True)
class Built:
    """A bundle to write, and what was found. `result.choice` is None when no build agrees."""

    manifest: Manifest
    blobs: Mapping[str, BlobSource]
    result: Result

    def check(self) -> Choice:
        """Return the choice.

        Raises:
            RefusedError: no build agrees.
        """
        result = self.result
        if result.choice is not None:
            return result.choice
        if not result.certificates:
            told = [f"{one.label}: {'; '.join(r.reason for r in one.refusals)}" for one in result.refused]
            raise RefusedError(
                "no build could be measured",
                why=" | ".join(told[:6]) or "no engine offered one",
                hint="run `tilth explain` for every candidate, and `tilth engines` for what is installed",
            )
        target = result.certificates[0].device.target
        return choose(target, result.builds, {c.build: c for c in result.certificates})


class _Builder:
    def __init__(
        self, bundle: Bundle, device: Device, request: Request, tools: Tools, progress: Progress, folder: Path
    ) -> None:
        self._bundle, self._device = bundle, device
        self._request = checked_request(request, bundle.manifest.signature)
        self._tools, self._progress, self._folder = tools, progress, folder
        self._engines = _wanted_engines(tools.engines, request.engines)
        self._calibration = self._kept_calibration(self._request.calibration)
        self._key = f"search-{key(self._facts())}"

    def run(self) -> Built:
        result = self._from_cache()
        if result is None:
            try:
                result = self._searched()
            except KeyboardInterrupt:
                raise CancelledError(
                    "the search was interrupted",
                    why="what was measured so far is kept",
                    hint="run the same command again to go on",
                ) from None
            self._tools.cache.put(self._key, {"result": to_json(result)})
        return self._assembled(result)

    def _kept_calibration(self, given: Mapping[str, Value] | Path | None) -> list[Path]:
        """Write the calibration inputs to files of a few rows, so that nobody has to hold all of them."""
        if given is None:
            return []
        signature = self._bundle.manifest.signature
        values = checked_data("calibration", read_values(given) if isinstance(given, Path) else given, signature)
        most = rows_at_once(values, signature, self._bundle.manifest.graph.weights_bytes)
        return write_pieces(self._folder / "calibration", values, signature, most)

    def _facts(self) -> dict[str, Any]:
        """Return everything that a result depends on."""
        request = self._request
        return {
            "graph": self._bundle.manifest.graph.digest,
            "golden": to_json(self._bundle.manifest.golden),
            "device": to_json(self._device),
            "engines": {name: _version(engine) for name, engine in self._engines.items()},
            "goal": request.goal,
            "tolerance": str(request.tolerance),
            "budget_s": request.budget_s,
            "memory_bytes": request.memory_bytes,
            "batches": list(request.batches),
            "calibration": [digest_file(path) for path in self._calibration],
            "evaluation": None
            if request.evaluation is None
            else {
                "inputs": _values_digest(request.evaluation.inputs, self._folder),
                "labels": _values_digest({"labels": request.evaluation.labels}, self._folder),
                "max_drop": request.evaluation.max_drop,
            },
            "tilth": self._tools.tilth,
        }

    def _from_cache(self) -> Result | None:
        record = self._tools.cache.get(self._key)
        if not isinstance(record, dict) or "result" not in record:
            return None
        try:
            result = from_json(Result, record["result"])
        except InvalidError:
            return None
        for name in result.blobs:
            data = self._tools.cache.blob(name)
            if data is None:
                return None
            (self._folder / name).write_bytes(data)
        return replace(result, cached=True)

    def _searched(self) -> Result:
        end = time.monotonic() + self._request.budget_s
        manifest = self._bundle.manifest
        plain = self._plain()
        child, together = estimate_limits(
            plain.graph.weights_bytes, self._device.memory_bytes, self._request.memory_bytes
        )
        state = self._saved_state()
        limits = Limits(
            child, together, load_s=max(60.0, self._request.budget_s), call_s=max(10.0, self._request.budget_s)
        )
        arena = Arena(self._tools.measure, self._folder, self._device, limits)
        try:
            weights_bytes = plain.graph.weights_bytes
            examiner = Examiner(arena, self._folder, self._bundle, self._request, weights_bytes)
            # A search that goes on compares with what the source reached, not with what it sees first.
            examiner.source_metric = next((s.task.source for s in state.sights.values() if s.task), None)
            candidates = Candidates(
                manifest.graph, self._device, self._request, self._kitchen(plain, examiner, child, arena.close)
            )
            search = Search(
                arena,
                examiner,
                self._request,
                manifest.signature,
                lambda: self._bundle.inputs(0),
                self._folder,
                state,
                self._save,
                self._progress,
                end,
            )
            offered = candidates.of(self._engines, search.recipe_s, search.why_not)
            made = search.run(offered, lambda: candidates.total)
            busy = self._abreast(search, state, made, arena, examiner)
        finally:
            arena.close()
        return self._certified(state, made, candidates.refused, busy)

    def _abreast(
        self, search: Search, state: State, made: Sequence[Candidate], arena: Arena, examiner: Examiner
    ) -> "_Busy | None":
        """Measure what calls of the fastest build get done side by side, in the time that is left."""
        certificates = self._certificates(state)
        choice = self._chosen(state, [c.build for c in made if c.build.id in certificates], certificates)
        timings = certificates[choice.build].timings if choice is not None else ()
        if choice is None or not timings:
            return None
        chosen, batch = state.contenders[choice.build], min(t.batch for t in timings)
        p50_ms = next(t.p50_ms for t in timings if t.batch == batch)
        found = divided(chosen.build, p50_ms, self._device, self._engines[chosen.build.engine])
        if found is None:
            return None
        build, count = found
        seconds = block_s(search.left_s() - before_s(chosen, count, p50_ms, examiner.rows), count * p50_ms)
        if not seconds:
            return None
        self._progress("lanes", 0, 1, f"{count} x {build.label}")
        lane = state.contenders.get(build.id) or Contender(build, chosen.model, chosen.weights_bytes)
        try:
            sight = state.sights.get(build.id) or examiner.look(lane, [chosen.id])
            if sight.objections:
                return None
            lanes = measure(arena, chosen, lane, count, str(search.inputs(batch)), batch, seconds)
        except WorkerFailed:
            # Nothing is lost: it is served one call at a time.
            return None
        self._progress("lanes", 1, 1)
        return _Busy(lane, sight, lanes)

    def _plain(self) -> Variant:
        graph = self._bundle.manifest.graph
        path = self._bundle.materialise(graph.digest, self._folder / "plain")
        beside = {name: size for name, size in graph.weights.items() if (path.parent / name).exists()}
        return Variant(graph, path, beside)

    def _kitchen(self, plain: Variant, examiner: Examiner, memory_bytes: int, make_room: Callable[[], None]) -> Kitchen:
        rms = self._request.tolerance.rms
        return Kitchen(
            self._tools.derive,
            plain,
            self._bundle.manifest.signature,
            self._calibration or examiner.inputs,
            self._device,
            self._folder,
            self._tools.cache,
            memory_bytes,
            {"tilth": self._tools.tilth, "ort": _version(self._tools.engines["ort"])},
            make_room,
            error=_MIXED_ERROR if rms is None else rms * _MIXED_SHARE,
        )

    def _saved_state(self) -> State:
        record = self._tools.cache.get(self._key)
        return state_from_json(record.get("state")) if isinstance(record, dict) else State()

    def _save(self, state: State) -> None:
        self._tools.cache.put(self._key, {"state": state_to_json(state)})

    def _certificates(self, state: State, busy: "_Busy | None" = None) -> dict[str, Certificate]:
        evidence = digest(canonical_json(self._facts()))
        seen = {name: (state.contenders[name], sight) for name, sight in state.sights.items()}
        if busy is not None:
            seen[busy.lane.id] = busy.lane, busy.sight
        return {
            name: certificate(
                contender,
                sight,
                device=self._device,
                anchor=state.anchor,
                request=self._request,
                inputs_digest=evidence,
                tilth=self._tools.tilth,
                lanes=busy.lanes if busy is not None and name == busy.lane.id else None,
            )
            for name, (contender, sight) in seen.items()
        }

    def _certified(
        self, state: State, made: Sequence[Candidate], refused: Sequence[Refused], busy: "_Busy | None"
    ) -> Result:
        certificates = self._certificates(state, busy)
        builds = tuple(candidate.build for candidate in made if candidate.build.id in certificates)
        if busy is not None and busy.lane.id not in {build.id for build in builds}:
            builds = (*builds, busy.lane.build)
        choice = self._chosen(state, builds, certificates)
        if choice is not None and busy is not None and pays(busy.lanes):
            choice = replace(choice, busy=busy.lane.id)
        used = {b.variant for b in builds} - {self._bundle.manifest.graph.digest}
        variants = {c.variant.graph.digest: c.variant for c in made if c.variant.graph.digest in used}
        return Result(
            builds=builds,
            certificates=tuple(certificates[b.id] for b in builds),
            refused=(*refused, *state.refused.values()),
            graphs=tuple(v.graph for v in variants.values()),
            blobs=self._gathered(variants.values()),
            choice=choice,
        )

    def _chosen(self, state: State, builds: Sequence[Build], certificates: Mapping[str, Certificate]) -> Choice | None:
        try:
            choice = choose(self._device.target, builds, certificates, self._request.goal)
        except RefusedError:
            return None  # the evidence is worth keeping; whoever wrote it down asks `choose` again and tells
        dropped = {name: why for name, why in state.dropped.items() if name in choice.reasons}
        return replace(choice, reasons={**choice.reasons, **dropped})

    def _gathered(self, variants: Any) -> dict[str, int]:
        """Bring the blobs that only variants have into the work folder and the cache, and return their sizes."""
        sizes: dict[str, int] = {}
        for variant in variants:
            for name, size in variant.blobs.items():
                if name in self._bundle.manifest.blobs or name in sizes:
                    continue
                file = variant.model if name == variant.graph.digest else variant.model.parent / name
                data = file.read_bytes()
                (self._folder / name).write_bytes(data)
                self._tools.cache.put_blob(name, data)
                sizes[name] = size
        return sizes

    def _assembled(self, result: Result) -> Built:
        old, target = self._bundle.manifest, self._device.target
        elsewhere = [b for b in old.builds if b.target != target]
        kept = {b.id for b in elsewhere}
        graphs = {g.digest: g for g in (*old.graphs, *result.graphs)}
        used = {b.variant for b in (*elsewhere, *result.builds)} | {old.graph.digest}
        sizes = {**old.blobs, **result.blobs}
        wanted = _needed(old, [g for g in graphs.values() if g.digest in used])
        manifest = replace(
            old,
            graphs=tuple(g for g in graphs.values() if g.digest in used),
            builds=(*elsewhere, *result.builds),
            certificates=(*(c for c in old.certificates if c.build in kept), *result.certificates),
            refused=(*(r for r in old.refused if r.target != target), *result.refused),
            choices=(
                *(c for c in old.choices if c.target != target),
                *([result.choice] if result.choice else []),
            ),
            blobs={name: sizes[name] for name in sorted(wanted)},
            tilth=self._tools.tilth,
        )
        blobs: dict[str, BlobSource] = {
            name: FileRange(self._folder / name, 0, result.blobs[name])
            if name in result.blobs
            else self._bundle.source(name)
            for name in manifest.blobs
        }
        return Built(manifest, blobs, result)


def _needed(old: Manifest, graphs: Sequence[Graph]) -> set[str]:
    names = {g.digest for g in graphs} | {name for g in graphs for name in g.weights}
    for case in old.golden.cases:
        for value in (*case.inputs.values(), *case.outputs.values()):
            items = value if isinstance(value, tuple) else () if value is None else (value,)
            names |= {item.blob for item in items}
    return names


def _wanted_engines(engines: Mapping[str, Engine], names: Sequence[str]) -> dict[str, Engine]:
    for name in names:
        if name not in engines:
            raise MissingError(
                f"there is no engine `{name}`", why="known: " + ", ".join(engines), hint="run `tilth engines`"
            )
    return {name: engine for name, engine in engines.items() if not names or name in names}


def _version(engine: Engine) -> str:
    try:
        return engine.version()
    except MissingError:
        return "missing"


def _values_digest(values: Mapping[str, Value], folder: Path) -> str:
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        path = Path(inside) / "values.npz"
        write_values(path, values)
        return digest_file(path)
