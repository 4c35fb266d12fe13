"""The conformance suite for engines: subclass it, say which engine, and run pytest.

```python
class TestAcmeNpu(EngineSuite):
    engine = npu
```

Every check runs small models and compares with onnx's own evaluator. A model that the engine refuses is skipped with
the engine's reason, so that the report shows what it does not take; `affine` it must take.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import onnx

from tilth.bridge.agreement import compare
from tilth.bridge.batch import row_of
from tilth.bridge.interface import read_signature
from tilth.bridge.recipes import RECIPES
from tilth.bridge.skeleton import split
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.device import Device
from tilth.core.errors import InvalidError, UnsupportedError
from tilth.core.graph import Graph
from tilth.ports.arrays import Values
from tilth.ports.engine import Engine, Option, Session
from tilth.testing.models import SmallModel, affine, small_models
from tilth.testing.values import TASKS, copied, dtypes, frozen, same, shapes, spoil, strided, thread_ticks

#: How far a build in full precision may be from onnx's evaluator, as `Agreement.max_rel`.
CLOSE_REL = 1e-4
#: No engine is made for this target; a name that a real chip could have would be a guess.
_NOWHERE = Device("nowhere:0", "no-such-chip", "a chip that does not exist", cores=1)
_BATCHES = (1, 3, 1)
_DEFAULT = Option(Precision.FP32)
_BUSY_S = 0.4


def this_cpu() -> Device:
    """Return the CPU that this process runs on, as far as engines need to know it here."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return Device("cpu:0", f"cpu-{machine}", platform.processor() or machine, cores=len(os.sched_getaffinity(0)))


class EngineSuite:
    """What every engine promises. `device` is the chip to try it on, this machine's CPU unless a subclass says."""

    engine: ClassVar[Engine]
    device: ClassVar[Device] = this_cpu()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run every test that takes a `small` model once for each of them."""
        if "small" in metafunc.fixturenames:
            found = small_models()
            metafunc.parametrize("small", found, ids=[small.name for small in found])

    def test_it_has_a_name_and_a_version(self) -> None:
        """Both are text that can be shown and recorded."""
        assert self.engine.name.isidentifier(), self.engine.name
        version = self.engine.version()
        assert isinstance(version, str), version
        assert version.strip() == version != "", version

    def test_refusals_have_a_verdict_and_a_reason(self, small: SmallModel) -> None:
        """Nothing is dropped in silence, and asking changes nothing."""
        graph = split(small.model, None).graph
        found = self.engine.refusals(graph, self.device)
        _check_refusals(found)
        assert self.engine.refusals(graph, self.device) == found

    def test_a_chip_of_another_kind_is_refused(self) -> None:
        """An engine that takes every target would be measured on chips that it cannot drive."""
        graph = split(affine().model, None).graph
        found = self.engine.refusals(graph, _NOWHERE)
        assert found, f"it takes the target `{_NOWHERE.target}`"
        _check_refusals(found)

    def test_affine_is_not_refused(self) -> None:
        """An engine that takes no model passes every other check."""
        assert self.engine.refusals(split(affine().model, None).graph, self.device) == []

    def test_the_first_option_is_the_engines_own_default(self, small: SmallModel) -> None:
        """Others are compared with it: full precision, the graph as it is, no settings."""
        graph = self._taken(small)
        options = self.engine.options(graph, self.device, tuple(Precision))
        assert options, "it refuses nothing and offers nothing"
        assert _is_default(options[0]), options[0]
        assert all(options.count(option) == 1 for option in options), "an option is offered twice"

    def test_only_precisions_that_were_asked_for_are_offered(self) -> None:
        """A lower precision that nobody asked for would cost accuracy."""
        graph = self._taken(affine())
        for precision in Precision:
            found = self.engine.options(graph, self.device, [precision])
            assert {option.precision for option in found} <= {precision}
        assert self.engine.options(graph, self.device, []) == []

    def test_every_option_loads_and_runs_or_says_why(self, small: SmallModel) -> None:
        """An `UnsupportedError` with a reason is the only other answer."""
        graph = self._taken(small)
        wanted = small.expected(3)
        for option in self.engine.options(graph, self.device, tuple(Precision)):
            with self._session(small, option) as session:
                if session is None:
                    continue
                found = session.run(small.inputs(3))
                assert list(found) == list(wanted), option
                error = compare([(found, wanted)])
                exact = option.precision is Precision.FP32
                assert not exact or (error.max_rel <= CLOSE_REL and error.exact == 1), f"{option}: {error}"

    def test_answers_agree_at_every_batch_size_in_turn(self, small: SmallModel) -> None:
        """One row, three, and one again: nothing is left over from the call before."""
        with self._loaded(small) as session:
            for rows in _BATCHES:
                self._check_answers(small, session, rows)

    def test_answers_are_named_in_graph_order_and_have_the_graphs_dtypes(self, small: SmallModel) -> None:
        """What an engine answers can stand beside the golden outputs."""
        with self._loaded(small) as session:
            found = session.run(small.inputs(3))
            assert list(found) == small.output_names
            for name, value in small.expected(3).items():
                assert shapes(found[name]) == shapes(value), name
                assert dtypes(found[name]) == dtypes(value), name

    def test_answers_belong_to_the_caller(self, small: SmallModel) -> None:
        """Writing to one changes neither earlier answers nor later ones, the first time and when calls are cached."""
        with self._loaded(small) as session:
            first = session.run(small.inputs(3))
            kept = copied(first)
            for _ in range(3):
                later = session.run(small.inputs(3))
                assert same(later, kept), "an answer follows what was written to an earlier one"
                spoil(later)
                assert same(first, kept), "two answers share memory"

    def test_inputs_are_read_and_never_written(self, small: SmallModel) -> None:
        """They may be read-only, and are what they were afterwards."""
        inputs = {name: frozen(value) for name, value in small.inputs(3).items()}
        with self._loaded(small) as session:
            session.run(inputs)
            session.run(inputs)
        assert same(inputs, small.inputs(3))

    def test_answers_do_not_depend_on_how_inputs_lie_in_memory(self, small: SmallModel) -> None:
        """Strided and column-major arrays have the same dtype and shape, and so the same answers."""
        with self._loaded(small) as session:
            for _ in range(2):
                inputs = {name: strided(value) for name, value in small.inputs(3).items()}
                _check_close(session.run(inputs), small.expected(3), "strided inputs")

    def test_the_same_inputs_give_the_same_answers(self, small: SmallModel) -> None:
        """A build whose answers move from call to call cannot be certified."""
        with self._loaded(small) as session:
            first = copied(session.run(small.inputs(3)))
            assert all(same(first, session.run(small.inputs(3))) for _ in range(3))

    def test_wrong_inputs_are_refused_and_the_session_goes_on(self) -> None:
        """A wrong dtype, rank, size or name is an `InvalidError` with a reason, the first time and later."""
        small = affine()
        with self._loaded(small) as session:
            for _ in range(2):
                for what, wrong in _wrong_inputs(small).items():
                    self._check_refused(session, what, wrong)
                    self._check_answers(small, session, 3)

    def test_every_option_refuses_wrong_inputs(self) -> None:
        """Settings that make calls faster must not make them careless."""
        small = affine()
        for option in self.engine.options(self._taken(small), self.device, tuple(Precision)):
            with self._session(small, option) as session:
                if session is None:
                    continue
                session.run(small.inputs(3))
                for what, wrong in _wrong_inputs(small).items():
                    self._check_refused(session, f"{what}, {option}", wrong)

    def test_placement_says_where_every_node_ran(self, small: SmallModel) -> None:
        """A share of nodes elsewhere is a number with a source, and at least one node ran."""
        with self._loaded(small) as session:
            session.run(small.inputs(1))
            placement = session.placement()
        assert placement.asked, "it does not say which unit was asked for"
        assert placement.source, "it does not say which interface said so"
        assert all(count >= 0 for count in placement.nodes.values()), placement.nodes
        assert sum(placement.nodes.values()) > 0, "no node ran anywhere"
        assert 0.0 <= placement.fallback_share <= 1.0, placement.fallback_share

    def test_a_rest_changes_nothing_but_memory(self, small: SmallModel) -> None:
        """A session answers as before after it gave back what only calls need, whichever way its calls go."""
        with self._loaded(small) as session:
            for rows in (*_BATCHES, *_BATCHES):
                self._check_answers(small, session, rows)
                session.rest(small.inputs(rows))
                self._check_answers(small, session, rows)

    def test_a_session_closes_twice(self, small: SmallModel) -> None:
        """Whoever cleans up need not know who else did."""
        with self._loaded(small) as session:
            session.run(small.inputs(1))
            session.close()
            session.close()

    def test_two_sessions_do_not_know_of_each_other(self) -> None:
        """Other weights, other answers; closing one leaves the other."""
        one, two = affine(), affine("other", scale=3.0)
        with self._loaded(one) as first, self._loaded(two) as second, self._loaded(one) as third:
            for rows in _BATCHES:
                self._check_answers(one, first, rows)
                self._check_answers(two, second, rows)
            first.close()
            self._check_answers(two, second, 3)
            self._check_answers(one, third, 3)

    def test_a_loaded_session_needs_no_files(self) -> None:
        """Weights beside the model are read or mapped by the time `load` returns; the caller removes them then."""
        small = affine(inputs=64, outputs=64)
        self._taken(small)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save_model(_copy(small.model), path, save_as_external_data=True, location="weights", size_threshold=64)
            assert (path.parent / "weights").stat().st_size > 0
            session = self.engine.load(path, self._build(split(small.model, None).graph), self.device)
        for rows in _BATCHES:
            self._check_answers(small, session, rows)
        session.close()

    def test_a_file_that_is_no_model_is_unsupported(self, tmp_path: Path) -> None:
        """Truncated, empty or of another kind: the engine's own words are the reason."""
        data = affine(inputs=64, outputs=64).model.SerializeToString()
        build = self._build(split(affine().model, None).graph)
        for name, content in {"cut": data[: len(data) // 2], "text": b"no model"}.items():
            path = tmp_path / f"{name}.onnx"
            path.write_bytes(content)
            try:
                self.engine.load(path, build, self.device)
            except UnsupportedError as error:
                assert error.why, f"{name}: no reason"
            else:
                raise AssertionError(f"{name}: it loaded")

    def test_a_limit_on_threads_is_kept(self) -> None:
        """With `threads=1` one thread computes; checked where `/proc` tells, and the engine offers it."""
        small = affine(inputs=512, outputs=2048)
        offered = self.engine.options(self._taken(small), self.device, tuple(Precision))
        option = next((o for o in offered if o.settings.get("threads") == 1 and o.recipe == "plain"), None)
        if option is None or not TASKS.is_dir():
            raise SkipTest("it offers no limit on threads, or this system does not tell them apart")
        with self._session(small, option) as session:
            if session is None:
                raise SkipTest(f"the option does not load: {self._words}")
            inputs = small.inputs(256)
            session.run(inputs)
            before, end = thread_ticks(), time.monotonic() + _BUSY_S
            while time.monotonic() < end:
                session.run(inputs)
            spent = {task: ticks - before.get(task, 0) for task, ticks in thread_ticks().items()}
        busy = [ticks for ticks in spent.values() if ticks > 0.25 * max(spent.values())]
        assert len(busy) <= 1, f"{len(busy)} threads computed"

    def _taken(self, small: SmallModel) -> Graph:
        graph = split(small.model, None).graph
        refusals = self.engine.refusals(graph, self.device)
        if refusals:
            raise SkipTest(f"`{self.engine.name}` refuses `{small.name}`: " + "; ".join(r.reason for r in refusals))
        return graph

    @contextmanager
    def _loaded(self, small: SmallModel) -> Iterator[Session]:
        """Load the engine's own default; a refusal to load a model other than `affine` skips the test."""
        self._taken(small)
        with self._session(small, _DEFAULT) as session:
            if session is None:
                raise SkipTest(f"`{self.engine.name}` does not load `{small.name}`: {self._words}")
            yield session

    @contextmanager
    def _session(self, small: SmallModel, option: Option) -> Iterator[Session | None]:
        with TemporaryDirectory() as folder:
            model = self._variant(small, option, Path(folder))
            session = None if model is None else self._opened(model, small, option, Path(folder))
        try:
            yield session
        finally:
            if session is not None:
                session.close()

    _words: str = ""

    def _opened(self, model: onnx.ModelProto, small: SmallModel, option: Option, folder: Path) -> Session | None:
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            session = self.engine.load(path, self._build(split(model, None).graph, option), self.device)
        except UnsupportedError as error:
            assert error.why, "it refuses to load and does not say why"
            assert small.name != "affine" or not _is_default(option), error
            type(self)._words = error.why
            return None
        assert session is not None, "load returned None"
        return session

    def _variant(self, small: SmallModel, option: Option, folder: Path) -> onnx.ModelProto | None:
        """Return the graph that the option's recipe makes; None when it changes nothing, refuses or is not known."""
        model = _copy(small.model)
        if option.recipe == "plain":
            return model
        if option.recipe not in RECIPES:
            return None
        signature = read_signature(model, batched=False)

        def load(path: Path) -> Session:
            return self.engine.load(path, self._build(split(small.model, None).graph), self.device)

        try:
            rows = [row_of(small.inputs(3), signature, row) for row in range(3)]
            return model if RECIPES[option.recipe](model, folder, list[Values](rows), load, 0.05) else None
        except UnsupportedError:
            return None

    def _build(self, graph: Graph, option: Option = _DEFAULT) -> Build:
        plain = Build(graph.digest, self.device.target, self.engine.name, option.precision)
        return replace(plain, recipe=option.recipe, variant=graph.digest, settings=option.settings)

    def _check_answers(self, small: SmallModel, session: Session, rows: int) -> None:
        _check_close(session.run(small.inputs(rows)), small.expected(rows), f"{rows} rows")

    def _check_refused(self, session: Session, what: str, wrong: Values) -> None:
        try:
            session.run(wrong)
        except InvalidError as error:
            assert error.why, f"{what}: refused without a reason"
        else:
            raise AssertionError(f"{what}: it answered")


def _is_default(option: Option) -> bool:
    return (option.precision, option.recipe, option.settings) == (Precision.FP32, "plain", {})


def _check_refusals(found: list[Refusal]) -> None:
    assert isinstance(found, list), found
    for refusal in found:
        assert isinstance(refusal, Refusal), refusal
        assert refusal.verdict in Verdict, refusal
        assert len(refusal.reason.split()) > 2, f"not a sentence: {refusal.reason!r}"


def _check_close(found: Values, wanted: Values, what: str) -> None:
    assert list(found) == list(wanted), f"{what}: outputs {list(found)}, not {list(wanted)}"
    agreement = compare([(found, wanted)])
    assert agreement.max_rel <= CLOSE_REL, f"{what}: relative error {agreement.max_rel:.2g}"
    assert agreement.exact == 1, f"{what}: {1 - agreement.exact:.0%} of what must be equal is not"


def _wrong_inputs(small: SmallModel) -> dict[str, Values]:
    value = np.asarray(small.inputs(3)["x"])
    return {
        "a wrong dtype": {"x": value.astype(np.float64)},
        "whole numbers for floats": {"x": value.astype(np.int64)},
        "a rank too low": {"x": value[0]},
        "a rank too high": {"x": value[None]},
        "a wrong size": {"x": value[:, :-1]},
        "one value for all": {"x": value[:1, :1]},
        "a missing input": {},
    }


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made
