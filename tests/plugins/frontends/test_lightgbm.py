import warnings
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.plugins.frontends.lightgbm import LightGBMFrontend

FRONTEND = LightGBMFrontend()
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(400, 5))
CLASS2 = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(int)
CLASS3 = np.digitize(ROWS[:, 0] + ROWS[:, 1], [-0.5, 0.5])
TARGET = ROWS[:, 0] * 3 + np.sin(ROWS[:, 2])
SMALL: dict[str, Any] = {"n_estimators": 12, "verbose": -1, "n_jobs": 1}
RANDOM_FOREST = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}

MODELS = {
    "binary": (lgb.LGBMClassifier(**SMALL), CLASS2),
    "binary steep sigmoid": (lgb.LGBMClassifier(sigmoid=2.5, **SMALL), CLASS2),
    "binary words": (lgb.LGBMClassifier(**SMALL), np.array(["no", "yes"])[CLASS2]),
    "multiclass": (lgb.LGBMClassifier(**SMALL), CLASS3),
    "multiclass words": (lgb.LGBMClassifier(**SMALL), np.array(["x", "y", "z"])[CLASS3]),
    "one against all": (lgb.LGBMClassifier(objective="multiclassova", **SMALL), CLASS3),
    "forest": (lgb.LGBMClassifier(**RANDOM_FOREST, **SMALL), CLASS2),
    "forest of three": (lgb.LGBMClassifier(**RANDOM_FOREST, **SMALL), CLASS3),
    "dart": (lgb.LGBMClassifier(boosting_type="dart", **SMALL), CLASS2),
    "regression": (lgb.LGBMRegressor(**SMALL), TARGET),
    "regression forest": (lgb.LGBMRegressor(**RANDOM_FOREST, **SMALL), TARGET),
    "square root": (lgb.LGBMRegressor(reg_sqrt=True, **SMALL), TARGET),
    "l1": (lgb.LGBMRegressor(objective="regression_l1", **SMALL), TARGET),
    "huber": (lgb.LGBMRegressor(objective="huber", **SMALL), TARGET),
    "quantile": (lgb.LGBMRegressor(objective="quantile", alpha=0.9, **SMALL), TARGET),
    "poisson": (lgb.LGBMRegressor(objective="poisson", **SMALL), np.abs(TARGET)),
    "gamma": (lgb.LGBMRegressor(objective="gamma", **SMALL), np.abs(TARGET) + 0.1),
    "tweedie": (lgb.LGBMRegressor(objective="tweedie", **SMALL), np.abs(TARGET)),
    "cross entropy": (lgb.LGBMRegressor(objective="cross_entropy", **SMALL), CLASS2),
    "cross entropy lambda": (lgb.LGBMRegressor(objective="cross_entropy_lambda", **SMALL), CLASS2),
}


@pytest.mark.parametrize("case", MODELS)
def test_every_objective_agrees_at_two_batch_sizes(case: str, disagreement: Any) -> None:
    model, target = MODELS[case]
    capture = FRONTEND.capture(model.fit(ROWS, target), ROWS[:50])
    assert disagreement(capture) < 1e-5


@pytest.mark.parametrize("objective", ["binary", "multiclass", "regression", "lambdarank"])
def test_a_bare_booster_agrees(objective: str, disagreement: Any) -> None:
    target = {"multiclass": CLASS3, "regression": TARGET}.get(objective, CLASS2)
    options: dict[str, Any] = {"objective": objective, "verbose": -1, "num_threads": 1}
    options |= {"num_class": 3} if objective == "multiclass" else {}
    data = lgb.Dataset(ROWS, target, group=[200, 200] if objective == "lambdarank" else None)
    capture = FRONTEND.capture(lgb.train(options, data, 10), ROWS[:50])
    assert disagreement(capture) < 1e-5
    assert [item.name for item in capture.model.graph.output][0] == (
        "label" if objective in ("binary", "multiclass") else "variable"
    )


def test_a_value_on_a_float64_threshold_takes_the_same_branch(disagreement: Any) -> None:
    # Tenths are not float32 numbers: thresholds lie a hair beside the float32 values of the data.
    rows = np.round(RNG.normal(size=(2000, 3)), 1)
    target = rows[:, 0] * rows[:, 1] + rows[:, 2]
    model = lgb.LGBMRegressor(n_estimators=60, min_child_samples=1, verbose=-1, n_jobs=1).fit(rows, target)
    booster = model.booster_
    node = booster.dump_model()["tree_info"]
    thresholds = sorted({n["threshold"] for tree in node for n in _branches(tree["tree_structure"])})
    at = np.repeat(np.asarray(thresholds, np.float32)[:, None], 3, axis=1)
    near = np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))])
    # LightGBM reads what is within 1e-35 of 0 as 0, whatever the threshold.
    near = near[np.abs(near[:, 0]) > 1e-34]
    capture = FRONTEND.capture(model, near)
    assert disagreement(capture, batches=()) < 1e-5


def _branches(node: dict[str, Any]) -> list[dict[str, Any]]:
    if "threshold" not in node:
        return []
    return [node, *_branches(node["left_child"]), *_branches(node["right_child"])]


@pytest.mark.parametrize("trained_with_missing", [False, True])
def test_missing_values_take_the_branch_that_lightgbm_takes(trained_with_missing: bool, disagreement: Any) -> None:
    holes = np.where(RNG.random(ROWS.shape) < 0.2, np.nan, ROWS)
    model = lgb.LGBMRegressor(**SMALL).fit(holes if trained_with_missing else ROWS, TARGET)
    assert disagreement(FRONTEND.capture(model, holes[:60]), batches=()) < 1e-5


def test_integer_categories_are_looked_up_as_sets(disagreement: Any) -> None:
    codes = RNG.integers(0, 40, 600).astype(float)
    target = np.isin(codes, [1, 3, 4, 8, 21]) * 2.0 + np.isin(codes, [2, 8, 30])
    rows = np.c_[codes, RNG.normal(size=600)]
    options = {"objective": "regression", "verbose": -1, "min_data_per_group": 1, "max_cat_to_onehot": 1}
    booster = lgb.train(options, lgb.Dataset(rows, target, categorical_feature=[0]), 15)
    unseen = np.array([[99.0, 0], [np.nan, 0], [-1, 0]])
    capture = FRONTEND.capture(booster, np.concatenate([rows[:200], unseen]))
    assert "BRANCH_EQ" in str(capture.model.graph.node[0])
    assert disagreement(capture, batches=()) < 1e-5


def test_early_stopping_keeps_the_best_round_only(disagreement: Any) -> None:
    model = lgb.LGBMClassifier(n_estimators=200, learning_rate=0.5, verbose=-1, n_jobs=1)
    stop = lgb.early_stopping(5, verbose=False)
    model.fit(ROWS[:300], CLASS2[:300], eval_X=ROWS[300:], eval_y=CLASS2[300:], callbacks=[stop])
    assert 0 < model.best_iteration_ < 200
    assert disagreement(FRONTEND.capture(model, ROWS[:50])) < 1e-5


def test_a_table_is_read_in_the_order_of_training(disagreement: Any) -> None:
    import pandas as pd

    frame = pd.DataFrame(ROWS, columns=list("abcde"))
    model = lgb.LGBMRegressor(**SMALL).fit(frame, TARGET)
    capture = FRONTEND.capture(model, frame[list("edcba")].head(20))
    assert capture.sample is not None
    assert np.array_equal(capture.sample["X"], ROWS[:20].astype(np.float32))
    assert disagreement(capture) < 1e-5


def test_without_a_sample_the_graph_is_the_same() -> None:
    model = lgb.LGBMRegressor(**SMALL).fit(ROWS, TARGET)
    with_sample, without = FRONTEND.capture(model, ROWS[:3]), FRONTEND.capture(model, None)
    assert without.sample is None
    assert with_sample.model.SerializeToString() == without.model.SerializeToString()


@pytest.mark.parametrize("sample", [ROWS[:, :3], np.array([["a"] * 5]), ROWS[:0], ROWS[0]])
def test_a_sample_that_does_not_fit_is_refused(sample: Any) -> None:
    model = lgb.LGBMRegressor(**SMALL).fit(ROWS, TARGET)
    with pytest.raises(InvalidError):
        FRONTEND.capture(model, sample)


def test_an_untrained_model_is_refused() -> None:
    with pytest.raises(InvalidError, match="not trained"):
        FRONTEND.capture(lgb.LGBMClassifier(), ROWS)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"linear_tree": True}, "linear_tree"), ({"zero_as_missing": True}, "zero_as_missing")],
)
def test_what_the_graph_cannot_say_is_refused(options: dict[str, Any], word: str) -> None:
    holes = np.where(ROWS > 1, 0, ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lgb.LGBMRegressor(**SMALL, **options).fit(holes, TARGET)
    with pytest.raises(UnsupportedError, match=word):
        FRONTEND.capture(model, ROWS)


def test_data_frame_categories_are_refused() -> None:
    import pandas as pd

    frame = pd.DataFrame({"kind": pd.Categorical(np.array(["a", "b", "c"])[CLASS3]), "x": ROWS[:, 0]})
    model = lgb.LGBMRegressor(**SMALL).fit(frame, TARGET)
    with pytest.raises(UnsupportedError, match="category columns"):
        FRONTEND.capture(model, None)


def test_a_model_that_is_one_leaf_agrees(disagreement: Any) -> None:
    model = lgb.LGBMRegressor(**SMALL).fit(ROWS[:5], TARGET[:5])
    assert disagreement(FRONTEND.capture(model, ROWS[:5])) < 1e-5
