"""The conformance suite for frontends: subclass it, say which frontend and which model, and run pytest.

```python
class TestAcme(FrontendSuite):
    frontend = AcmeFrontend()
    packages = ("acme",)

    def make_model(self):
        return trained_model, sample_rows
```

The suite needs no framework and no engine: graphs are run by onnx's own evaluator.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_model
from onnx.reference import ReferenceEvaluator

from tilth.bridge.agreement import compare
from tilth.bridge.batch_symbol import dims_of, inputs_of
from tilth.bridge.model_checks import check_model
from tilth.core.build import Refusal
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.core.signature import BATCH
from tilth.ports.arrays import Value, Values
from tilth.ports.frontend import Capture, Frontend

#: How far a graph may be from its source, as `Agreement.max_rel`.
CLOSE_REL = 1e-4
#: A wrong sample is refused within 2 s; a busy machine is given five times that.
REFUSED_WITHIN_S = 10.0
_FOREIGN = (object(), 3, "some text", "package.module:factory", Path("model.unknown"), np.zeros(3), {"a": 1}, None)


class FrontendSuite:
    """What every frontend promises. `packages` are the modules without which it must raise `MissingError`."""

    frontend: Frontend
    packages: tuple[str, ...] = ()

    def make_model(self) -> tuple[Any, Any]:
        """Return a small model that the frontend takes, and a sample of at least two rows for it."""
        raise NotImplementedError

    def unsupported_model(self) -> Any | None:
        """Return a model of the framework that the frontend refuses, or None when there is none."""
        return None

    def test_it_has_a_name_and_a_version(self) -> None:
        """Both are text that can be shown and recorded."""
        assert self.frontend.name.isidentifier()
        assert self.frontend.version()[:1].isdigit()

    def test_it_accepts_its_own_models_and_no_others(self) -> None:
        """The first frontend that accepts a model takes it, so none may claim what is not its own."""
        model, _ = self.make_model()
        assert self.frontend.accepts(model)
        for foreign in _FOREIGN:
            assert not self.frontend.accepts(foreign), foreign

    def test_a_model_that_it_takes_is_not_refused(self) -> None:
        """Refusals and capture tell the same story."""
        model, _ = self.make_model()
        assert list(self.frontend.refusals(model)) == []

    def test_an_unsupported_model_is_refused_with_reasons(self) -> None:
        """Nothing is dropped in silence, and capture refuses what `refusals` names."""
        model = self.unsupported_model()
        if model is None:
            return
        found = self.frontend.refusals(model)
        assert found
        assert all(isinstance(item, Refusal) and item.reason for item in found)
        assert isinstance(_raised(self.frontend, model, None), UnsupportedError)

    def test_the_graph_is_valid_and_named(self) -> None:
        """The graph passes every check of an import; its names are those of the sample and of `run`."""
        capture = self._captured()
        check_model(capture.model, capture.weights_dir)
        onnx.checker.check_model(_whole(capture))
        assert capture.framework
        assert capture.version
        assert capture.sample is not None
        assert list(capture.sample) == [item.name for item in inputs_of(capture.model)]
        answers = capture.run(capture.sample)
        assert list(answers) == [item.name for item in capture.model.graph.output]
        assert len(set(answers)) == len(answers)

    def test_the_graph_agrees_with_the_source_at_two_batch_sizes(self) -> None:
        """The graph, run by onnx's evaluator, gives what the framework gives."""
        capture = self._captured()
        assert capture.sample is not None
        counts: tuple[int | None, ...] = (1, 3) if capture.batched else (None,)
        evaluator = ReferenceEvaluator(_whole(capture))
        for count in counts:
            values = _rows(capture, count)
            wanted = capture.run(values)
            found = dict(zip(wanted, evaluator.run(list(wanted), dict(values)), strict=True))
            agreement = compare([(found, wanted)])
            assert agreement.max_rel <= CLOSE_REL, f"{count} rows: relative error {agreement.max_rel:.2g}"
            assert agreement.exact == 1, f"{count} rows: labels differ"

    def test_answers_have_the_dtypes_and_shapes_of_the_graph(self) -> None:
        """What the source gives can stand beside what an engine gives."""
        capture = self._captured()
        assert capture.sample is not None
        answers = capture.run(capture.sample)
        for item in capture.model.graph.output:
            value = answers[item.name]
            if not item.type.HasField("tensor_type") or not isinstance(value, np.ndarray):
                continue
            dims = dims_of(item)
            assert len(dims) == value.ndim, item.name
            assert all(isinstance(d, str) or d == n for d, n in zip(dims, value.shape, strict=True)), item.name
            wanted = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
            assert value.dtype == wanted, item.name

    def test_run_reads_its_inputs_and_gives_its_outputs_away(self) -> None:
        """Inputs may be read-only; outputs belong to the caller."""
        capture = self._captured()
        assert capture.sample is not None
        values = {name: _frozen(value) for name, value in capture.sample.items()}
        first = capture.run(values)
        kept = {name: np.array(value) for name, value in first.items()}
        for value in first.values():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.flags.writeable:
                value[...] = 0
        again = capture.run(values)
        assert all(np.array_equal(kept[name], np.asarray(again[name]), equal_nan=False) for name in kept)

    def test_a_sample_by_input_name_is_the_same_sample(self) -> None:
        """Arrays by input name are taken whatever other forms a frontend knows."""
        model, _ = self.make_model()
        capture = self._captured()
        again = self.frontend.capture(model, dict(capture.sample or {}))
        assert again.sample is not None
        assert all(
            np.array_equal(np.asarray(again.sample[n]), np.asarray(v)) for n, v in (capture.sample or {}).items()
        )

    def test_two_captures_are_the_same_graph(self) -> None:
        """A graph's digest names it: the same model must not get two names."""
        first, second = self._captured(), self._captured()
        assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)

    def test_a_sample_of_the_wrong_width_or_dtype_is_refused_in_time(self) -> None:
        """A clear error, soon, and the frontend works afterwards."""
        model, _ = self.make_model()
        capture = self._captured()
        for wrong in _wrong_samples(capture):
            start = time.monotonic()
            error = _raised(self.frontend, model, wrong)
            assert isinstance(error, InvalidError), error
            assert error.what
            assert error.hint
            assert time.monotonic() - start < REFUSED_WITHIN_S
        self._captured()

    def test_without_its_packages_it_says_what_to_install(self) -> None:
        """A framework that is not installed is a `MissingError` with a hint, never an `ImportError`."""
        for package in self.packages:
            with blocked(package):
                try:
                    self.frontend.version()
                except MissingError as error:
                    assert "pip install" in error.hint
                else:
                    raise AssertionError(f"version() did without `{package}`")
        assert self.frontend.version()

    def _captured(self) -> Capture:
        model, sample = self.make_model()
        return self.frontend.capture(model, sample)


@contextmanager
def blocked(package: str) -> Iterator[None]:
    """Make imports of `package` fail as if it were not installed; what was imported before is put back."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == package}
    finder = _Blocker(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(hidden)


class _Blocker(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named '{fullname}'", name=fullname)
        return None


def _raised(frontend: Frontend, model: Any, sample: Any) -> Exception | None:
    try:
        frontend.capture(model, sample)
    except Exception as error:  # the caller says which one it wanted
        return error
    return None


def _whole(capture: Capture) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(capture.model)
    if capture.weights_dir is not None:
        load_external_data_for_model(model, str(capture.weights_dir))
    return model


def _rows(capture: Capture, count: int | None) -> dict[str, Value]:
    """Return `count` rows of the sample along the dimension named `batch`, all of it for None."""
    dims = {item.name: dims_of(item) for item in inputs_of(capture.model)}
    found: dict[str, Value] = {}
    for name, value in (capture.sample or {}).items():
        if count is None or BATCH not in dims[name] or not isinstance(value, np.ndarray):
            found[name] = value
            continue
        axis = dims[name].index(BATCH)
        found[name] = np.take(value, np.arange(count) % value.shape[axis], axis=axis)
    return found


def _frozen(value: Value) -> Value:
    if not isinstance(value, np.ndarray):
        return value
    frozen = value.copy()
    frozen.flags.writeable = False
    return frozen


def _wrong_samples(capture: Capture) -> list[Values]:
    sample = {name: value for name, value in (capture.sample or {}).items() if isinstance(value, np.ndarray)}
    name, value = next(item for item in sample.items() if item[1].ndim > 1 and item[1].dtype.kind in "fiu")
    text = np.full(value.shape, "text", dtype=object)
    return [{**sample, name: np.concatenate([value, value], axis=-1)}, {**sample, name: text}]
