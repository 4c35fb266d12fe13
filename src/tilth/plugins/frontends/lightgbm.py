"""LightGBM models: boosters and the scikit-learn wrappers, tree by tree.

The graph is built from the model's own dump. LightGBM compares float64 thresholds; each is replaced by the largest
float32 that is not above it, which decides alike for every float32 input.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.columns import matrix_of
from tilth.bridge.refuse import check_not_refused
from tilth.bridge.trees import Forest, Link, at_most, classifier, regressor
from tilth.core.build import Refusal, Verdict
from tilth.core.errors import InvalidError, MissingError
from tilth.ports.arrays import Array, Values
from tilth.ports.frontend import Capture

#: Behind the parameters stand the categories of columns, at most.
_TAIL_BYTES = 4 << 20
_LINKS = {
    "regression": Link.NONE,
    "regression_l1": Link.NONE,
    "huber": Link.NONE,
    "fair": Link.NONE,
    "quantile": Link.NONE,
    "mape": Link.NONE,
    "lambdarank": Link.NONE,
    "rank_xendcg": Link.NONE,
    "custom": Link.NONE,
    "poisson": Link.EXP,
    "gamma": Link.EXP,
    "tweedie": Link.EXP,
    "binary": Link.SIGMOID,
    "multiclass": Link.SOFTMAX,
    "multiclassova": Link.SIGMOID,
    "cross_entropy": Link.SIGMOID,
    "cross_entropy_lambda": Link.SOFTPLUS,
}
_CLASSIFIERS = frozenset({"binary", "multiclass", "multiclassova"})


class LightGBMFrontend:
    """LGBMClassifier, LGBMRegressor, LGBMRanker and Booster; the sample is an array or table of shape (rows, features).

    The graph takes one float32 input `X`. Classifiers and boosters with a class objective give `label` and
    `probabilities`, all others `variable`, of shape (rows, 1).
    """

    name = "lightgbm"

    def version(self) -> str:
        """Return LightGBM's version.

        Raises:
            MissingError: it is not installed.
        """
        try:
            import lightgbm  # noqa: F401  what is listed as installed may still fail to load
        except (ImportError, OSError) as error:
            raise MissingError(
                "lightgbm is not installed", why=str(error), hint="run `pip install 'tilth[lightgbm]'`"
            ) from error
        return metadata.version("lightgbm")

    def accepts(self, model: object) -> bool:
        """Return whether some class of `model` is LightGBM's."""
        return any(kind.__module__.split(".")[0] == "lightgbm" for kind in type(model).__mro__)

    def refusals(self, model: object) -> list[Refusal]:
        """Return what of this model has no form in the graph."""
        return _refusals(model, _booster(model).dump_model())

    def capture(self, model: object, sample: Any | None) -> Capture:
        """Return the trees as a graph, with LightGBM's own prediction.

        Raises:
            InvalidError: the model is not trained, or the sample does not fit it.
            UnsupportedError: a refusal.
            MissingError: LightGBM is not installed.
        """
        version = self.version()
        booster = _booster(model)
        dump = booster.dump_model()
        hint = "train on integer codes or one-hot columns, without `linear_tree`"
        check_not_refused(self.name, model, _refusals(model, dump), hint=hint)
        width = booster.num_feature()
        given = None if sample is None else {"X": matrix_of(sample, width, names=tuple(booster.feature_name()))}
        classes = _classes(model, dump)
        forest, base, link = _forest(dump, width), [0.0] * int(dump["num_tree_per_iteration"]), _link(dump)
        graph = regressor(forest, base, link) if classes is None else classifier(forest, base, link, classes)

        def run(values: Values) -> Values:
            scores = np.asarray(booster.predict(matrix_of(values["X"], width)), dtype=np.float64)
            return _outputs(scores, classes)

        notes = ("LightGBM adds leaves in float64 and the graph in float32",)
        return Capture(model=graph, run=run, framework=self.name, version=version, sample=given, notes=notes)


def _refusals(model: Any, dump: dict[str, Any]) -> list[Refusal]:
    found = []
    if _objective(dump) not in _LINKS:
        found.append(Refusal(Verdict.TODO, f"objective `{_objective(dump)}` has no output function here"))
    if dump.get("pandas_categorical"):
        reason = "the model was trained on pandas category columns, whose words the graph cannot look up"
        found.append(Refusal(Verdict.TODO, reason))
    if _objective(dump) == "custom" and hasattr(model, "classes_"):
        reason = "a classifier with an objective of one's own has no probabilities"
        found.append(Refusal(Verdict.NEVER, reason))
    return found + _tree_refusals(dump)


def _booster(model: Any) -> Any:
    if not hasattr(model, "__sklearn_is_fitted__"):
        return model
    if not model.__sklearn_is_fitted__():
        raise InvalidError(
            f"this {type(model).__name__} is not trained",
            why="it has no trees yet",
            hint="call `fit` before it is imported",
        )
    return model.booster_


def _objective(dump: dict[str, Any]) -> str:
    return str(dump.get("objective") or "custom").split(" ")[0]


def _option(dump: dict[str, Any], name: str, default: float) -> float:
    for word in str(dump.get("objective") or "").split(" ")[1:]:
        key, _, value = word.partition(":")
        if key == name:
            return float(value)
    return default


def _link(dump: dict[str, Any]) -> Link:
    words = str(dump.get("objective") or "").split(" ")
    return Link.SIGNED_SQUARE if "sqrt" in words[1:] else _LINKS[_objective(dump)]


def _classes(model: Any, dump: dict[str, Any]) -> list[Any] | None:
    if hasattr(model, "classes_"):
        return [item if isinstance(item, str) else int(item) for item in model.classes_.tolist()]
    if _objective(dump) in _CLASSIFIERS:
        return list(range(max(2, int(dump["num_class"]))))
    return None


def _outputs(scores: Array, classes: list[Any] | None) -> Values:
    if classes is None:
        return {"variable": scores.reshape(len(scores), -1).astype(np.float32)}
    chances = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
    names = np.asarray(classes, dtype=object if isinstance(classes[0], str) else np.int64)
    return {"label": names[chances.argmax(axis=1)], "probabilities": chances.astype(np.float32)}


def _walk(tree: dict[str, Any]) -> list[dict[str, Any]]:
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += [node[key] for key in ("right_child", "left_child") if key in node]
    return found


def _tree_refusals(dump: dict[str, Any]) -> list[Refusal]:
    nodes = [node for tree in dump["tree_info"] for node in _walk(tree["tree_structure"])]
    found = []
    if any("leaf_coeff" in node for node in nodes):
        found.append(Refusal(Verdict.TODO, "`linear_tree` puts a linear model in every leaf"))
    if any(node.get("missing_type") == "Zero" for node in nodes):
        found.append(Refusal(Verdict.TODO, "`zero_as_missing` treats 0 as missing, which the graph does not"))
    return found


def _forest(dump: dict[str, Any], width: int) -> Forest:
    trees, scores = dump["tree_info"], int(dump["num_tree_per_iteration"])
    # The sigmoid's own steepness goes into the leaves; a random forest averages over its rounds.
    scale = _option(dump, "sigmoid", 1.0)
    if dump.get("average_output"):
        scale /= max(1, len(trees) // scores)
    forest = Forest(width, scores)
    for index, tree in enumerate(trees):
        _add_tree(forest, index, tree["tree_structure"], index % scores, scale)
    return forest


def _add_tree(forest: Forest, tree: int, root: dict[str, Any], score: int, scale: float) -> None:
    waiting, fresh = [(0, root)], 1
    while waiting:
        here, node = waiting.pop()
        if "split_feature" not in node:
            forest.leaf(tree, here, score, float(node["leaf_value"]) * scale)
            continue
        yes, no, fresh = fresh, fresh + 1, fresh + 2
        feature = int(node["split_feature"])
        if node["decision_type"] == "==":
            categories = [float(item) for item in str(node["threshold"]).split("||")]
            fresh = forest.member(tree, here, feature, categories, yes, no, fresh)
        else:
            threshold = float(node["threshold"])
            forest.branch(tree, here, "BRANCH_LEQ", feature, at_most(threshold), yes, no, _missing_left(node))
        waiting += [(no, node["right_child"]), (yes, node["left_child"])]


def _missing_left(node: dict[str, Any]) -> bool:
    # Without missing values in training, LightGBM reads NaN as 0.
    if node["missing_type"] == "None":
        return float(node["threshold"]) >= 0
    return bool(node["default_left"])


def saved(model_file: str) -> Any:
    """Return the booster that a text file of LightGBM's own form holds.

    Raises:
        InvalidError: the file is not whole; LightGBM itself would look for its end for ever.
    """
    import lightgbm

    with Path(model_file).open("rb") as file:
        begins = file.read(5) == b"tree\n"
        file.seek(max(0, Path(model_file).stat().st_size - _TAIL_BYTES))
        ends = b"\nend of parameters" in file.read()
    if not (begins and ends):
        raise InvalidError(
            f"`{Path(model_file).name}` is not a model that LightGBM saved",
            why="it ends too early" if begins else "it does not begin as one",
            hint="save it again with `Booster.save_model`",
        )
    return lightgbm.Booster(model_file=model_file)
