"""Scikit-learn estimators and whole pipelines, converted by sklearn-onnx and checked against scikit-learn itself.

A conversion is tried in float32 first. Where it fails, or is further than 1e-5 from scikit-learn on the sample, other
forms are tried: whole numbers as int64, columns joined before the model, and the inside of the graph in float64.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np

from tilth.bridge.agreement import compare
from tilth.bridge.casts import wrap_in_casts
from tilth.bridge.converted import flatten_label, merge_opsets, rename_inputs, settle_shapes
from tilth.bridge.estimator_inputs import estimator_inputs
from tilth.bridge.estimators import final, parts, steps
from tilth.bridge.refuse import check_not_refused
from tilth.bridge.tree_dumps import PlainTrees, RoundedDump
from tilth.bridge.trees import OPSETS
from tilth.core.build import Refusal, Verdict
from tilth.core.errors import InvalidError, MissingError, TilthError, UnsupportedError
from tilth.ports.arrays import Array, Values
from tilth.ports.frontend import Capture

CLOSE_REL = 1e-5
_ROWS = 64
_HINT = "replace the step by one that has a converter, or convert the model yourself and import the `.onnx` file"
# A value beside a threshold falls on one side or the other: what feeds these must round as scikit-learn does.
_STEPPED = ("Tree", "Forest", "Boost", "Bagging", "LGBM", "XGB", "Discretizer")
# sklearn-onnx gives these the score of the first class first.
_MIRRORED = frozenset({"SVC", "NuSVC"})
# What is mended in a copy before it is converted.
_REPAIRED = ("HistGradientBoosting", "VotingClassifier", "LGBM", "LinearDiscriminantAnalysis")
_UNSOUND = frozenset(
    {"GaussianProcessClassifier", "OneVsOneClassifier", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor"}
)
_SINGLE = frozenset({"RidgeClassifier", "RidgeClassifierCV", "LinearSVC"})


@dataclass(frozen=True)
class _Form:
    """One way to convert: whole numbers as float32 or int64, columns apart or joined, float32 or float64 inside."""

    whole: bool = False
    joined: bool = False
    double: bool = False


@dataclass(frozen=True)
class _Trial:
    form: _Form
    model: Any
    sample: dict[str, Array]
    error: float


class SklearnFrontend:
    """Any fitted estimator or pipeline whose parts sklearn-onnx can convert.

    A sample of shape (rows, features) gives one input `X`; a data frame, or a mapping of columns, gives one input of
    shape (rows, 1) per column; a list of texts gives one input `X` of shape (rows). Numbers are float32 in the graph,
    and scikit-learn is given the same float32 values. Classifiers answer with `label` and `probabilities` (or the
    scores of `decision_function`), all else with what sklearn-onnx names them.
    """

    name = "sklearn"

    def version(self) -> str:
        """Return scikit-learn's version.

        Raises:
            MissingError: scikit-learn or sklearn-onnx is not installed.
        """
        try:
            import skl2onnx  # noqa: F401  the converter is needed as much as the library
            import sklearn  # noqa: F401
        except (ImportError, OSError) as error:
            raise MissingError(
                "scikit-learn or skl2onnx is not installed", why=str(error), hint="run `pip install 'tilth[sklearn]'`"
            ) from error
        return metadata.version("scikit-learn")

    def accepts(self, model: object) -> bool:
        """Return whether some class of `model` is scikit-learn's."""
        return any(kind.__module__.split(".")[0] == "sklearn" for kind in type(model).__mro__)

    def refusals(self, model: object) -> list[Refusal]:
        """Return which parts have no converter, or one that is known to be wrong; raises what `version` raises."""
        self.version()
        from skl2onnx._supported_operators import sklearn_operator_name_map as known

        _register_boosters(model)
        found = [refusal for part in parts(model) if (refusal := _refusal(part))]
        for step in steps(model):
            if type(step) not in known:
                reason = f"sklearn-onnx has no converter for `{type(step).__name__}`"
                found.append(Refusal(Verdict.UPSTREAM, reason))
        return list(dict.fromkeys(found))

    def capture(self, model: object, sample: Any | None) -> Capture:
        """Return the converted model, with scikit-learn's own answers.

        Raises:
            InvalidError: the model is not fitted, or the sample does not fit it.
            UnsupportedError: a refusal, or no form converts.
            MissingError: a package is not installed.
        """
        version = self.version()
        _check_fitted(model)
        model = getattr(model, "best_estimator_", model)
        check_not_refused(self.name, model, self.refusals(model), hint=_HINT)
        given = estimator_inputs(model, sample)
        _check_taken(model, given)
        trial = _best(model, given)
        source = _source(model, trial.model, trial.sample)
        return Capture(
            model=trial.model,
            run=source,
            framework=self.name,
            version=version,
            sample=None if sample is None else trial.sample,
            notes=tuple(_notes(model, sample, trial)),
        )


def _check_fitted(model: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise InvalidError(
            f"this {type(model).__name__} is not fitted", why=str(error), hint="call `fit` before it is imported"
        ) from error
    except TypeError as error:
        raise InvalidError(
            f"this {type(model).__name__} is not an estimator", why=str(error), hint="give the fitted object itself"
        ) from error


def _check_taken(model: Any, given: dict[str, Array]) -> None:
    """Let the model itself judge the sample, before a converter stumbles over it."""
    few = {name: array[:2] for name, array in given.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _answers(model, _rows(few))
    except (ValueError, TypeError) as error:
        raise InvalidError(
            f"this {_kind(model)} refuses the sample",
            why=" ".join(str(error).split())[:300],
            hint="give rows with the columns and types of training",
        ) from error


# What cannot be converted as it should.


def _kind(part: Any) -> str:
    return type(part).__name__


def _refusal(part: Any) -> Refusal | None:
    kind = _kind(part)
    if kind == "FunctionTransformer" and part.func is not None:
        return Refusal(Verdict.NEVER, "`FunctionTransformer` calls a Python function, which has no graph")
    if kind in _UNSOUND:
        return Refusal(Verdict.UPSTREAM, f"sklearn-onnx converts `{kind}` to a graph that does not run as it should")
    if kind.startswith("HistGradientBoosting") and hasattr(part, "_predictors"):
        return _hist_refusal(part)
    return None


def _hist_refusal(part: Any) -> Refusal | None:
    if part.is_categorical_ is not None and np.any(part.is_categorical_):
        return Refusal(Verdict.UPSTREAM, "sklearn-onnx ignores the categorical splits of `HistGradientBoosting`")
    if _kind(part).endswith("Regressor") and part.loss in ("poisson", "gamma"):
        return Refusal(Verdict.UPSTREAM, f"sklearn-onnx ignores the logarithm of `loss={part.loss}`")
    return None


# A copy that sklearn-onnx can convert, and that decides as the model does.


def _prepared(model: Any) -> Any:
    kinds = {_kind(part) for part in parts(model)}
    if not any(kind.startswith(_REPAIRED) for kind in kinds):
        return model
    model = copy.deepcopy(model)
    for part in parts(model):
        if _kind(part) == "VotingClassifier":
            # It shapes `transform`, which is not converted; sklearn-onnx refuses it all the same.
            part.flatten_transform = False
        elif _kind(part).startswith("HistGradientBoosting") and hasattr(part, "_predictors"):
            part._predictors = [[PlainTrees(tree.nodes) for tree in trees] for trees in part._predictors]
        elif _kind(part).startswith("LGBM"):
            part._Booster = RoundedDump(part._Booster)
        elif _kind(part) == "LinearDiscriminantAnalysis" and len(part.classes_) == 2:
            _as_logistic(part)
    return model


def _as_logistic(part: Any) -> None:
    """Turn a two-class discriminant into the logistic model that it is; sklearn-onnx doubles its score."""
    from sklearn.linear_model import LogisticRegression

    kept = {key: getattr(part, key) for key in ("coef_", "intercept_", "classes_", "n_features_in_")}
    part.__class__ = LogisticRegression
    part.__dict__ = {**vars(LogisticRegression()), **kept}


def _register_boosters(model: Any) -> None:
    """Teach sklearn-onnx the boosters of other libraries that are part of this pipeline."""
    modules = {type(part).__module__.split(".")[0] for part in parts(model)}
    if not modules & {"lightgbm", "xgboost"}:
        return
    try:
        import onnxmltools  # noqa: F401
    except ImportError as error:
        raise MissingError(
            "onnxmltools is not installed",
            why="the pipeline holds a LightGBM or XGBoost model, which onnxmltools converts",
            hint="run `pip install onnxmltools`",
        ) from error
    if "lightgbm" in modules:
        _register_lightgbm()
    if "xgboost" in modules:
        _register_xgboost()


def _register_lightgbm() -> None:
    from lightgbm import LGBMClassifier, LGBMRegressor
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

    _register({LGBMClassifier: True, LGBMRegressor: False}, convert_lightgbm)


def _register_xgboost() -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from xgboost import XGBClassifier, XGBRegressor

    _register({XGBClassifier: True, XGBRegressor: False}, convert_xgboost)


def _register(classes: dict[type, bool], convert: Callable[..., None]) -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for kind, decides in classes.items():
        shapes = calculate_linear_classifier_output_shapes if decides else calculate_linear_regressor_output_shapes
        options = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if decides else None
        update_registered_converter(kind, f"Tilth{kind.__name__}", shapes, convert, options=options, overwrite=True)


# The conversion.


def _forms(given: dict[str, Array]) -> list[_Form]:
    forms = [_Form()]
    if list(given) != ["X"]:
        forms.append(_Form(joined=True))
    if any(array.dtype.kind in "ib" for array in given.values()):
        forms += [replace(form, whole=True) for form in forms]
    return forms


def _best(model: Any, given: dict[str, Array]) -> _Trial:
    """Return the first form that is close to scikit-learn, or else the closest.

    Raises:
        UnsupportedError: no form converts.
    """
    trials: list[_Trial] = []
    failures: list[str] = []
    forms = _forms(given)
    while forms:
        form = forms.pop(0)
        try:
            trial = _try(model, given, form)
        except TilthError:
            raise
        except Exception as error:  # converters raise of every kind
            failures.append(f"{type(error).__name__}: {error}")
        else:
            trials.append(trial)
            if trial.error <= CLOSE_REL:
                return trial
        if not forms and trials and not trials[0].form.double and not form.double:
            forms.append(replace(min(trials, key=lambda item: item.error).form, double=True))
    if not trials:
        raise UnsupportedError(
            f"sklearn-onnx cannot convert this {_kind(model)}", why=" ".join(failures[0].split())[:400], hint=_HINT
        )
    return min(trials, key=lambda item: item.error * (1 if not item.form.double else 10))


def _try(model: Any, given: dict[str, Array], form: _Form) -> _Trial:
    sample = {name: _typed(array, form) for name, array in given.items()}
    proto = _converted(model, sample, form)
    few = {name: array[:_ROWS] for name, array in sample.items()}
    run = _session(proto)
    settle_shapes(proto, few, run)
    agreement = compare([(run(few), _source(model, proto, few)(few))])
    return _Trial(form, proto, sample, max(agreement.max_rel, 1 - agreement.exact))


def _typed(array: Array, form: _Form) -> Array:
    if array.dtype.kind == "O":
        return array
    if array.dtype.kind in "ib" and (form.whole or np.any(np.abs(array.astype(np.int64)) > 1 << 24)):
        return array.astype(np.int64)
    return array.astype(np.float32)


def _converted(model: Any, sample: dict[str, Array], form: _Form) -> Any:
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    prepared = _prepared(_joined(model, sample) if form.joined else model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in _options(prepared):
            try:
                proto = convert_sklearn(
                    prepared,
                    name="sklearn",
                    initial_types=[(name, _type(array, form)) for name, array in sample.items()],
                    target_opset=dict(OPSETS),
                    options=options,
                    custom_conversion_functions=_hist_converters(),
                )
                break
            except NameError:  # not every classifier knows the option
                continue
        else:
            raise ValueError("no set of options suits the estimator")
    proto.producer_name, proto.producer_version = "skl2onnx", metadata.version("skl2onnx")
    merge_opsets(proto)
    rename_inputs(proto, list(sample))
    if is_classifier(final(model)):
        flatten_label(proto)
        if not _has_scores(model):
            # A vote by majority has no probabilities; its graph counts the votes.
            del proto.graph.output[1:]
    return wrap_in_casts(proto) if form.double else proto


def _joined(model: Any, sample: dict[str, Array]) -> Any:
    """Return the model behind a step that joins the columns, for estimators that take one matrix."""
    import pandas
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    join = ColumnTransformer([("columns", "passthrough", list(sample))])
    join.fit(pandas.DataFrame({name: array[:2, 0] for name, array in sample.items()}))
    return Pipeline([("join", join), ("model", model)])


def _options(model: Any) -> list[dict[Any, Any]]:
    from sklearn.base import is_classifier
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.preprocessing import MaxAbsScaler, RobustScaler, StandardScaler

    kinds = {_kind(part) for part in parts(model)}
    stepped = any(word in kind for word in _STEPPED for kind in kinds)
    loose = {"div": "div_cast" if stepped else "div"}
    every = {
        # In float32 scikit-learn subtracts and divides in float32; the others round a float64 result.
        StandardScaler: {"div": "div"},
        RobustScaler: loose,
        MaxAbsScaler: loose,
        # The default locale of the operator is missing on small machines.
        CountVectorizer: {"locale": "C"},
        TfidfVectorizer: {"locale": "C"},
    }
    base: dict[Any, Any] = {kind: chosen for kind, chosen in every.items() if kind.__name__ in kinds}
    plain = {id(model): {"zipmap": False}} if is_classifier(final(model)) else {}
    return [{**base, **plain}, base]


class _PlainNodes:
    """A container of sklearn-onnx that makes numbers of truth values, which protobuf 7 refuses among them."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args: Any, **attributes: Any) -> Any:
        key = "nodes_missing_value_tracks_true"
        if key in attributes:
            attributes[key] = [int(item) for item in attributes[key]]
        return self._container.add_node(*args, **attributes)


def _hist_converters() -> dict[type, Callable[..., None]]:
    from skl2onnx.common._registration import get_converter
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    def made(kind: type) -> Callable[..., None]:
        inner = get_converter(f"Sklearn{kind.__name__}")

        def convert(scope: Any, operator: Any, container: Any) -> None:
            inner(scope, operator, _PlainNodes(container))

        return convert

    return {kind: made(kind) for kind in (HistGradientBoostingClassifier, HistGradientBoostingRegressor)}


def _type(array: Array, form: _Form) -> Any:
    from skl2onnx.common import data_types as types

    shape = [None, *array.shape[1:]]
    if array.dtype.kind == "O":
        return types.StringTensorType(shape)
    if array.dtype.kind == "i":
        return types.Int64TensorType(shape)
    return types.DoubleTensorType(shape) if form.double else types.FloatTensorType(shape)


def _session(proto: Any) -> Callable[[Values], Values]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in proto.graph.output]
    return lambda values: dict(zip(names, session.run(names, dict(values)), strict=True))


# Scikit-learn's own answers, in the layout of the graph.


def _source(model: Any, proto: Any, sample: dict[str, Array]) -> Callable[[Values], Values]:
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in proto.graph.output}
    kinds = {item.name: item.type.tensor_type.elem_type for item in proto.graph.output}
    names = list(sample)

    def run(values: Values) -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = _answers(model, _rows({name: values[name] for name in names}))
        if len(answers) != len(ranks):
            raise _unanswered(model, f"it gives {len(answers)} and its graph {len(ranks)}")
        pairs = zip(ranks, answers, strict=True)
        return {name: _laid_out(np.asarray(answer), ranks[name], kinds[name]) for name, answer in pairs}

    return run


def _rows(values: Values) -> Any:
    if list(values) == ["X"]:
        return np.array(values["X"])
    import pandas

    return pandas.DataFrame({name: np.array(value)[:, 0] for name, value in values.items()})


def _laid_out(answer: Array, rank: int, element: int) -> Array:
    if answer.ndim != rank and rank in (1, 2):
        answer = answer.reshape(-1) if rank == 1 else answer.reshape(len(answer), -1)
    dtypes: dict[int, Any] = {1: np.float32, 7: np.int64, 8: object, 11: np.float64}
    return np.asarray(answer).astype(dtypes.get(element, answer.dtype))


def _answers(model: Any, rows: Any) -> list[Any]:
    from sklearn.base import is_classifier, is_outlier_detector, is_regressor

    last = final(model)
    if is_classifier(last):
        label = np.asarray(model.predict(rows))
        if label.ndim > 1 and label.shape[1] > 1:
            raise _unanswered(model, "it decides on several labels at once")
        return [label, _class_scores(model, last, rows)] if _has_scores(model) else [label]
    if is_regressor(last):
        return [model.predict(rows)]
    if is_outlier_detector(last):
        return [model.predict(rows), model.decision_function(rows)]
    if hasattr(last, "predict_proba"):
        return [model.predict(rows), model.predict_proba(rows)]
    if hasattr(last, "predict") and hasattr(last, "cluster_centers_"):
        return [model.predict(rows), model.transform(rows)]
    if not hasattr(model, "transform"):
        raise _unanswered(model, "it neither predicts nor transforms")
    found = model.transform(rows)
    return [found.toarray() if hasattr(found, "toarray") else found]


def _has_scores(model: Any) -> bool:
    return hasattr(model, "predict_proba") or hasattr(model, "decision_function")


def _unanswered(model: Any, why: str) -> UnsupportedError:
    return UnsupportedError(f"the answers of this {_kind(model)} have no form here", why=f"{why} (todo)", hint=_HINT)


def _class_scores(model: Any, last: Any, rows: Any) -> Any:
    if hasattr(model, "predict_proba"):
        return model.predict_proba(rows)
    scores = np.asarray(model.decision_function(rows))
    if scores.ndim == 2:
        return scores
    if _kind(last) in _SINGLE:
        return scores[:, None]
    return np.stack([scores, -scores] if _kind(last) in _MIRRORED else [-scores, scores], axis=1)


def _notes(model: Any, sample: Any | None, trial: _Trial) -> Iterator[str]:
    yield f"converted by skl2onnx {metadata.version('skl2onnx')}; scikit-learn is given the graph's float32 values"
    if trial.form.double:
        yield "the graph computes in float64 inside: in float32 it was too far from scikit-learn"
    if sample is None:
        yield "there was no sample: the conversion was tried on zeros only"
    elif trial.error > CLOSE_REL:
        yield f"on the sample the graph is within a relative error of {trial.error:.2g} of scikit-learn"
    if any(_kind(part).startswith("LGBM") for part in parts(model)):
        yield "LightGBM adds leaves in float64 and the graph in float32"
