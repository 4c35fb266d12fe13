"""XGBoost models: boosters and the scikit-learn wrappers, tree by tree.

The graph is built from the model's own JSON. XGBoost compares float32 with float32, and so does the graph.
"""

import json
import math
from typing import Any

import numpy as np

from tilth.bridge.columns import matrix_of
from tilth.bridge.refuse import check_not_refused
from tilth.bridge.trees import Forest, Link, classifier, regressor
from tilth.core.build import Refusal, Verdict
from tilth.core.errors import InvalidError, MissingError
from tilth.ports.arrays import Array, Values
from tilth.ports.frontend import Capture

_LINKS = {
    "reg:squarederror": Link.NONE,
    "reg:squaredlogerror": Link.NONE,
    "reg:pseudohubererror": Link.NONE,
    "reg:absoluteerror": Link.NONE,
    "reg:quantileerror": Link.NONE,
    "reg:expectileerror": Link.NONE,
    "rank:pairwise": Link.NONE,
    "rank:ndcg": Link.NONE,
    "rank:map": Link.NONE,
    "binary:logitraw": Link.NONE,
    "reg:logistic": Link.SIGMOID,
    "count:poisson": Link.EXP,
    "reg:gamma": Link.EXP,
    "reg:tweedie": Link.EXP,
    "survival:cox": Link.EXP,
    "survival:aft": Link.EXP,
    "binary:logistic": Link.SIGMOID,
    "binary:hinge": Link.STEP,
    "multi:softprob": Link.SOFTMAX,
    "multi:softmax": Link.SOFTMAX,
}
_CLASSIFIERS = frozenset({"binary:logistic", "binary:hinge", "multi:softprob", "multi:softmax"})
# The stored base score is in the space of the answer for these, and in that of the sum for all others.
_LOGIT = frozenset({"binary:logistic", "reg:logistic"})
_CATEGORICAL = 1


class XGBoostFrontend:
    """XGBClassifier, XGBRegressor, their forests, XGBRanker and Booster; the sample has shape (rows, features).

    The graph takes one float32 input `X`, NaN where a value is missing. Class objectives give `label` and
    `probabilities`, all others `variable`, of shape (rows, targets).
    """

    name = "xgboost"

    def version(self) -> str:
        """Return XGBoost's version.

        Raises:
            MissingError: it is not installed.
        """
        try:
            import xgboost
        except (ImportError, OSError) as error:
            raise MissingError(
                "xgboost is not installed", why=str(error), hint="run `pip install 'tilth[xgboost]'`"
            ) from error
        return str(xgboost.__version__)

    def accepts(self, model: object) -> bool:
        """Return whether some class of `model` is XGBoost's."""
        return any(kind.__module__.split(".")[0] == "xgboost" for kind in type(model).__mro__)

    def refusals(self, model: object) -> list[Refusal]:
        """Return what of this model has no form in the graph."""
        learner = _learner(_booster(model))
        if learner["gradient_booster"]["name"] == "gblinear":
            return [Refusal(Verdict.TODO, "`gblinear` is a linear model, not trees")]
        found = []
        if learner["objective"]["name"] not in _LINKS:
            reason = f"objective `{learner['objective']['name']}` has no output function here"
            found.append(Refusal(Verdict.TODO, reason))
        missing = getattr(model, "missing", math.nan)
        if missing is not None and not math.isnan(missing):
            found.append(Refusal(Verdict.TODO, f"`missing={missing}` marks missing values by a number, not by NaN"))
        return found + _tree_refusals(_grown(learner))

    def capture(self, model: object, sample: Any | None) -> Capture:
        """Return the trees as a graph, with XGBoost's own prediction.

        Raises:
            InvalidError: the model is not trained, or the sample does not fit it.
            UnsupportedError: a refusal.
            MissingError: XGBoost is not installed.
        """
        version = self.version()
        booster = _booster(model)
        check_not_refused(
            self.name, model, self.refusals(model), hint="train `gbtree` on numbers, with NaN for missing values"
        )
        learner, width = _learner(booster), booster.num_features()
        names = tuple(booster.feature_names or ())
        given = None if sample is None else {"X": matrix_of(sample, width, names=names)}
        objective, last = learner["objective"]["name"], _last_round(model)
        forest, classes = _forest(learner, width, last), _classes(model, learner)
        link = _LINKS[objective]
        base = _base(learner, forest.outputs)
        graph = regressor(forest, base, link) if classes is None else classifier(forest, base, link, classes)

        def run(values: Values) -> Values:
            return _outputs(_predicted(booster, matrix_of(values["X"], width), last, objective), classes)

        return Capture(model=graph, run=run, framework=self.name, version=version, sample=given)


def _booster(model: Any) -> Any:
    if not hasattr(model, "get_booster"):
        return model
    if not model.__sklearn_is_fitted__():
        raise InvalidError(
            f"this {type(model).__name__} is not trained",
            why="it has no trees yet",
            hint="call `fit` before it is imported",
        )
    return model.get_booster()


def _learner(booster: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))["learner"]
    return found


def _grown(learner: dict[str, Any]) -> dict[str, Any]:
    booster = learner["gradient_booster"]
    found: dict[str, Any] = booster["gbtree"]["model"] if "gbtree" in booster else booster["model"]
    return found


def _tree_refusals(grown: dict[str, Any]) -> list[Refusal]:
    found = []
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in grown["trees"]):
        found.append(Refusal(Verdict.TODO, "`multi_output_tree` keeps a vector in every leaf"))
    if grown.get("cats", {}).get("enc"):
        reason = "the model was trained on data frame categories, whose words the graph cannot look up"
        found.append(Refusal(Verdict.TODO, reason))
    return found


def _last_round(model: Any) -> int:
    # The wrappers stop at the best round by themselves; a Booster uses every round unless it is told.
    if not hasattr(model, "get_booster"):
        return 0
    best = model.get_booster().attributes().get("best_iteration")
    return 0 if best is None else int(best) + 1


def _forest(learner: dict[str, Any], width: int, last: int) -> Forest:
    grown = _grown(learner)
    shape = learner["learner_model_param"]
    forest = Forest(width, max(1, int(shape["num_class"]), int(shape["num_target"])))
    weights = learner["gradient_booster"].get("weight_drop") or [1.0] * len(grown["trees"])
    trees = grown["trees"][: grown["iteration_indptr"][last]] if last else grown["trees"]
    for index, tree in enumerate(trees):
        _add_tree(forest, index, tree, int(grown["tree_info"][index]), float(weights[index]))
    return forest


def _add_tree(forest: Forest, index: int, tree: dict[str, Any], score: int, weight: float) -> None:
    fresh = len(tree["left_children"])
    sets = _categories(tree)
    for node, (left, right) in enumerate(zip(tree["left_children"], tree["right_children"], strict=True)):
        value = float(np.float32(tree["split_conditions"][node]))
        if left == -1:
            forest.leaf(index, node, score, value * weight)
            continue
        feature, missing_left = tree["split_indices"][node], bool(tree["default_left"][node])
        if node in sets:
            # XGBoost sends the listed categories to the right.
            fresh = forest.member(index, node, feature, sets[node], right, left, fresh, not missing_left)
        else:
            forest.branch(index, node, "BRANCH_LT", feature, value, left, right, missing_left)


def _categories(tree: dict[str, Any]) -> dict[int, list[float]]:
    found = {}
    parts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    for node, start, size in parts:
        if tree["split_type"][node] == _CATEGORICAL:
            found[node] = [float(item) for item in tree["categories"][start : start + size]]
    return found


def _base(learner: dict[str, Any], outputs: int) -> list[float]:
    text = learner["learner_model_param"]["base_score"]
    loaded = json.loads(text)
    scores = [float(np.float32(item)) for item in (loaded if isinstance(loaded, list) else [loaded])]
    objective = learner["objective"]["name"]
    if objective in _LOGIT:
        scores = [-math.log(1 / item - 1) for item in scores]
    elif _LINKS[objective] is Link.EXP:
        scores = [math.log(item) for item in scores]
    return scores * outputs if len(scores) == 1 else scores


def _classes(model: Any, learner: dict[str, Any]) -> list[int] | None:
    if learner["objective"]["name"] not in _CLASSIFIERS:
        return None
    if hasattr(model, "classes_"):
        return [int(item) for item in np.asarray(model.classes_).tolist()]
    return list(range(max(2, int(learner["learner_model_param"]["num_class"]))))


def _predicted(booster: Any, rows: Array, last: int, objective: str) -> Array:
    # `multi:softmax` answers with labels alone; its probabilities are the softmax of the sums.
    raw = objective == "multi:softmax"
    found = booster.inplace_predict(
        rows, iteration_range=(0, last), predict_type="margin" if raw else "value", validate_features=False
    )
    scores = np.asarray(found, dtype=np.float32)
    if raw:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    return scores


def _outputs(scores: Array, classes: list[int] | None) -> Values:
    if classes is None:
        return {"variable": scores.reshape(len(scores), -1)}
    chances = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
    return {"label": np.asarray(classes, np.int64)[chances.argmax(axis=1)], "probabilities": chances}
