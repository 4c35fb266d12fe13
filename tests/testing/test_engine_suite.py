"""The engine suite itself: an honest engine passes it, and each way of breaking the port's promises is caught."""

import hashlib
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest

from tilth.core.build import Precision, Refusal, Verdict
from tilth.core.certificate import Placement
from tilth.core.errors import InvalidError
from tilth.ports.engine import Option
from tilth.testing.engine_suite import EngineSuite
from tilth.testing.fake_engine import FakeEngine, FakeSession
from tilth.testing.models import small_models

CHECKS = [name for name in vars(EngineSuite) if name.startswith("test_")]


def failures(engine: FakeEngine, folder: Path) -> set[str]:
    """Run the whole suite without pytest and return the checks that failed."""
    suite = type("Suite", (EngineSuite,), {"engine": engine})()
    return {check for check in CHECKS if any(_fails(getattr(suite, check), small, folder) for small in small_models())}


def _fails(check: Callable[..., None], small: object, folder: Path) -> bool:
    known = {"small": small, "tmp_path": folder}
    wanted = inspect.signature(check).parameters
    if "small" not in wanted and small.name != "affine":
        return False
    try:
        check(**{name: known[name] for name in wanted})
    except SkipTest:
        return False
    except Exception:
        return True
    return False


def test_an_honest_engine_passes(tmp_path: Path) -> None:
    assert failures(FakeEngine(offers=[Option(Precision.FP32, "plain", {"slow_ms": 0.1})]), tmp_path) == set()


class WithSession(FakeEngine):
    session: type[FakeSession] = FakeSession

    def __init__(self, session: type[FakeSession] = FakeSession) -> None:
        super().__init__()
        self.session = session

    def opened(self, model, settings):
        return self.session(model, settings)


class SharesItsBuffer(FakeSession):
    kept: dict = {}

    def run(self, inputs):
        found = super().run(inputs)
        for name, value in found.items():
            buffer = self.kept.setdefault((id(self), name, value.shape), np.empty_like(value))
            buffer[...] = value
            found[name] = buffer
        return found


class RemembersAnswers(FakeSession):
    def __init__(self, model, settings):
        super().__init__(model, settings)
        self._answers: dict = {}

    def run(self, inputs):
        found = super().run(inputs)
        return self._answers.setdefault(b"".join(value.tobytes() for value in inputs.values()), found)


class KeepsTheFirstBatch(FakeSession):
    first = None

    def run(self, inputs):
        found = super().run(inputs)
        self.first = self.first or found
        return {name: np.resize(self.first[name], value.shape) for name, value in found.items()}


class RestsForGood(FakeSession):
    def rest(self, inputs):
        self._weights.clear()


class DropsAnOutput(FakeSession):
    def run(self, inputs):
        found = super().run(inputs)
        return dict(list(found.items())[:1])


class SortsItsOutputs(FakeSession):
    def run(self, inputs):
        return dict(sorted(super().run(inputs).items()))


class AnswersInDoubles(FakeSession):
    def run(self, inputs):
        return {name: value.astype(np.float64) for name, value in super().run(inputs).items()}


class SwallowsDtypes(FakeSession):
    def run(self, inputs):
        return super().run({name: value.astype(np.float32) for name, value in inputs.items()})


class SwallowsRanks(FakeSession):
    def run(self, inputs):
        return super().run({name: np.atleast_2d(value) for name, value in inputs.items()})


class Broadcasts(FakeSession):
    def run(self, inputs):
        spec = self._signature.inputs[0]
        return super().run({n: np.broadcast_to(v, (len(v), *spec.shape[1:])) for n, v in inputs.items()})


class RefusesInItsOwnWords(FakeSession):
    def run(self, inputs):
        try:
            return super().run(inputs)
        except InvalidError as error:
            raise KeyError("x") from error


class BreaksAfterARefusal(FakeSession):
    broken = 0.0

    def run(self, inputs):
        try:
            return {name: value + np.float32(self.broken) for name, value in super().run(inputs).items()}
        except InvalidError:
            self.broken = 1.0
            raise


class RefusesWithoutAReason(FakeSession):
    def run(self, inputs):
        try:
            return super().run(inputs)
        except InvalidError:
            raise InvalidError("no") from None


class WritesToItsInputs(FakeSession):
    def run(self, inputs):
        found = super().run(inputs)
        for value in inputs.values():
            value.flags.writeable = True
            value[...] = 0
        return found


class NeedsWritableInputs(FakeSession):
    def run(self, inputs):
        if not all(value.flags.writeable for value in inputs.values()):
            raise InvalidError("refused", why="array is not writeable")
        return super().run(inputs)


class ReadsMemoryAsItLies(FakeSession):
    def run(self, inputs):
        return super().run({n: v.ravel(order="K").reshape(v.shape) for n, v in inputs.items()})


class Drifts(FakeSession):
    def run(self, inputs):
        return {name: value * np.float32(1 + self._calls * 1e-6) for name, value in super().run(inputs).items()}


class IsABitOff(FakeSession):
    def run(self, inputs):
        return {name: value * np.float32(1.001) for name, value in super().run(inputs).items()}


class ClaimsNoNodes(FakeSession):
    def placement(self):
        return Placement("numpy", {}, 0.0, "nobody")


class ClaimsMoreThanAll(FakeSession):
    def placement(self):
        return Placement("numpy", {"numpy": 1}, 1.5, "the fake engine")


class NamesNoSource(FakeSession):
    def placement(self):
        return Placement("numpy", {"numpy": 1}, 0.0, "")


class ClosesOnce(FakeSession):
    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class SharesItsWeights(FakeSession):
    weights: dict = {}

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.weights.update(self._weights)
        self._weights = self.weights


@pytest.mark.parametrize(
    ("session", "caught"),
    [
        (SharesItsBuffer, "test_answers_belong_to_the_caller"),
        (RemembersAnswers, "test_answers_belong_to_the_caller"),
        (KeepsTheFirstBatch, "test_answers_agree_at_every_batch_size_in_turn"),
        (DropsAnOutput, "test_answers_are_named_in_graph_order_and_have_the_graphs_dtypes"),
        (SortsItsOutputs, "test_answers_are_named_in_graph_order_and_have_the_graphs_dtypes"),
        (AnswersInDoubles, "test_answers_are_named_in_graph_order_and_have_the_graphs_dtypes"),
        (SwallowsDtypes, "test_wrong_inputs_are_refused_and_the_session_goes_on"),
        (SwallowsRanks, "test_wrong_inputs_are_refused_and_the_session_goes_on"),
        (Broadcasts, "test_wrong_inputs_are_refused_and_the_session_goes_on"),
        (RefusesInItsOwnWords, "test_wrong_inputs_are_refused_and_the_session_goes_on"),
        (BreaksAfterARefusal, "test_wrong_inputs_are_refused_and_the_session_goes_on"),
        (RefusesWithoutAReason, "test_wrong_inputs_are_refused_and_the_session_goes_on"),
        (WritesToItsInputs, "test_inputs_are_read_and_never_written"),
        (NeedsWritableInputs, "test_inputs_are_read_and_never_written"),
        (ReadsMemoryAsItLies, "test_answers_do_not_depend_on_how_inputs_lie_in_memory"),
        (Drifts, "test_the_same_inputs_give_the_same_answers"),
        (IsABitOff, "test_answers_agree_at_every_batch_size_in_turn"),
        (ClaimsNoNodes, "test_placement_says_where_every_node_ran"),
        (ClaimsMoreThanAll, "test_placement_says_where_every_node_ran"),
        (NamesNoSource, "test_placement_says_where_every_node_ran"),
        (RestsForGood, "test_a_rest_changes_nothing_but_memory"),
        (ClosesOnce, "test_a_session_closes_twice"),
        (SharesItsWeights, "test_two_sessions_do_not_know_of_each_other"),
    ],
)
def test_a_session_that_breaks_a_promise_is_caught(session: type[FakeSession], caught: str, tmp_path: Path) -> None:
    assert caught in failures(WithSession(session), tmp_path)


class Unnamed(FakeEngine):
    name = "fake engine"


class RefusesInSilence(FakeEngine):
    def refusals(self, graph, device):
        return [Refusal(Verdict.NEVER, "")] if super().refusals(graph, device) else []


class TakesEveryChip(FakeEngine):
    def refusals(self, graph, device):
        return [] if device.target == "no-such-chip" else super().refusals(graph, device)


class RefusesEverything(FakeEngine):
    def refusals(self, graph, device):
        return [Refusal(Verdict.TODO, "it takes no graph as yet")]


class OffersSettingsFirst(FakeEngine):
    def options(self, graph, device, precisions):
        return [Option(Precision.FP32, "plain", {"slow_ms": 0.0})]


class OffersWhatNobodyAskedFor(FakeEngine):
    def options(self, graph, device, precisions):
        return [Option(Precision.FP32), Option(Precision.INT8)]


class OffersAWrongOption(FakeEngine):
    def options(self, graph, device, precisions):
        return [Option(Precision.FP32), Option(Precision.FP32, "plain", {"wrong_by": 1.0})]


class OffersACarelessOption(FakeEngine):
    def options(self, graph, device, precisions):
        return [Option(Precision.FP32), Option(Precision.FP32, "plain", {"slow_ms": 0.0})]

    def opened(self, model, settings):
        return SwallowsDtypes(model, settings) if settings else FakeSession(model, settings)


class LoadsNothing(FakeEngine):
    def load(self, model, build, device):
        return None


class LoadsAnything(FakeEngine):
    def load(self, model, build, device):
        try:
            return super().load(model, build, device)
        except Exception:
            return FakeSession


class FailsInItsOwnWords(FakeEngine):
    def load(self, model, build, device):
        if len(model.read_bytes()) < 100:
            raise RuntimeError("parse error")
        return super().load(model, build, device)


class Lazy:
    """Reads the model when it first runs."""

    def __init__(self, load):
        self._load = load
        self._session = None

    def _ready(self):
        self._session = self._session or self._load()
        return self._session

    def run(self, inputs):
        return self._ready().run(inputs)

    def placement(self):
        return self._ready().placement()

    def close(self):
        self._session = None


class LoadsLater(FakeEngine):
    def load(self, model, build, device):
        return Lazy(lambda: FakeEngine.load(self, model, build, device))


class TakesTwoThreads(FakeSession):
    def __init__(self, model, settings):
        super().__init__(model, settings)
        self._pool = ThreadPoolExecutor(2)

    def run(self, inputs):
        # Hashing large buffers lets go of the interpreter's lock.
        list(self._pool.map(hashlib.sha256, [bytes(1 << 20)] * 2))
        return super().run(inputs)

    def close(self):
        self._pool.shutdown()


class IgnoresItsLimit(FakeEngine):
    def options(self, graph, device, precisions):
        return [Option(Precision.FP32), Option(Precision.FP32, "plain", {"threads": 1})]

    def opened(self, model, settings):
        return TakesTwoThreads(model, settings)


@pytest.mark.parametrize(
    ("engine", "caught"),
    [
        (Unnamed, "test_it_has_a_name_and_a_version"),
        (RefusesInSilence, "test_refusals_have_a_verdict_and_a_reason"),
        (TakesEveryChip, "test_a_chip_of_another_kind_is_refused"),
        (RefusesEverything, "test_affine_is_not_refused"),
        (OffersSettingsFirst, "test_the_first_option_is_the_engines_own_default"),
        (OffersWhatNobodyAskedFor, "test_only_precisions_that_were_asked_for_are_offered"),
        (OffersAWrongOption, "test_every_option_loads_and_runs_or_says_why"),
        (OffersACarelessOption, "test_every_option_refuses_wrong_inputs"),
        (LoadsNothing, "test_answers_agree_at_every_batch_size_in_turn"),
        (LoadsAnything, "test_a_file_that_is_no_model_is_unsupported"),
        (FailsInItsOwnWords, "test_a_file_that_is_no_model_is_unsupported"),
        (LoadsLater, "test_a_loaded_session_needs_no_files"),
        (IgnoresItsLimit, "test_a_limit_on_threads_is_kept"),
    ],
)
def test_an_engine_that_breaks_a_promise_is_caught(engine: type[FakeEngine], caught: str, tmp_path: Path) -> None:
    assert caught in failures(engine(), tmp_path)


def test_a_check_that_nothing_fails_is_found() -> None:
    tables = (test_a_session_that_breaks_a_promise_is_caught, test_an_engine_that_breaks_a_promise_is_caught)
    assert {caught for table in tables for _, caught in table.pytestmark[0].args[1]} == set(CHECKS)
