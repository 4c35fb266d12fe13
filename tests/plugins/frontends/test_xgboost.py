import math
import warnings
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.plugins.frontends.xgboost import XGBoostFrontend

FRONTEND = XGBoostFrontend()
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(400, 5))
CLASS2 = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(int)
CLASS3 = np.digitize(ROWS[:, 0] + ROWS[:, 1], [-0.5, 0.5])
TARGET = ROWS[:, 0] * 3 + np.sin(ROWS[:, 2])
POSITIVE = np.abs(TARGET) + 0.1
SMALL: dict[str, Any] = {"n_estimators": 12, "max_depth": 4, "n_jobs": 1}

MODELS = {
    "binary": (xgb.XGBClassifier(**SMALL), CLASS2),
    "binary base score": (xgb.XGBClassifier(base_score=0.2, **SMALL), CLASS2),
    "binary forest": (xgb.XGBRFClassifier(**SMALL), CLASS2),
    "hinge": (xgb.XGBClassifier(objective="binary:hinge", **SMALL), CLASS2),
    "dart": (xgb.XGBClassifier(booster="dart", rate_drop=0.4, **SMALL), CLASS2),
    "multiclass": (xgb.XGBClassifier(**SMALL), CLASS3),
    "multiclass forest": (xgb.XGBRFClassifier(**SMALL), CLASS3),
    "regression": (xgb.XGBRegressor(**SMALL), TARGET),
    "regression forest": (xgb.XGBRFRegressor(**SMALL), TARGET),
    "parallel trees": (xgb.XGBRegressor(num_parallel_tree=3, **SMALL), TARGET),
    "two targets": (xgb.XGBRegressor(**SMALL), np.stack([TARGET, -TARGET], axis=1)),
    "absolute error": (xgb.XGBRegressor(objective="reg:absoluteerror", **SMALL), TARGET),
    "pseudo huber": (xgb.XGBRegressor(objective="reg:pseudohubererror", **SMALL), TARGET),
    "quantiles": (
        xgb.XGBRegressor(objective="reg:quantileerror", quantile_alpha=np.array([0.1, 0.9]), **SMALL),
        TARGET,
    ),
    "squared log": (xgb.XGBRegressor(objective="reg:squaredlogerror", **SMALL), POSITIVE),
    "logistic regression": (xgb.XGBRegressor(objective="reg:logistic", **SMALL), CLASS2),
    "poisson": (xgb.XGBRegressor(objective="count:poisson", **SMALL), POSITIVE),
    "gamma": (xgb.XGBRegressor(objective="reg:gamma", **SMALL), POSITIVE),
    "tweedie": (xgb.XGBRegressor(objective="reg:tweedie", **SMALL), POSITIVE),
    "cox": (xgb.XGBRegressor(objective="survival:cox", **SMALL), POSITIVE),
}


@pytest.mark.parametrize("case", MODELS)
def test_every_objective_agrees_at_two_batch_sizes(case: str, disagreement: Any) -> None:
    model, target = MODELS[case]
    capture = FRONTEND.capture(model.fit(ROWS, target), ROWS[:50])
    assert disagreement(capture) < 1e-5


def test_run_is_what_the_wrapper_predicts() -> None:
    model = xgb.XGBClassifier(**SMALL).fit(ROWS, CLASS3)
    found = FRONTEND.capture(model, ROWS[:50]).run({"X": ROWS.astype(np.float32)})
    assert np.array_equal(found["label"], model.predict(ROWS))
    assert np.allclose(found["probabilities"], model.predict_proba(ROWS), atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    ["binary:logistic", "binary:logitraw", "multi:softmax", "multi:softprob", "reg:squarederror", "rank:ndcg"],
)
def test_a_bare_booster_agrees(objective: str, disagreement: Any) -> None:
    target = CLASS3 if objective.startswith("multi") else CLASS2
    options: dict[str, Any] = {"objective": objective, "max_depth": 4, "nthread": 1}
    options |= {"num_class": 3} if objective.startswith("multi") else {}
    data = xgb.DMatrix(ROWS, target, feature_names=["one", "two", "f9", "age (years)", "five"])
    if objective.startswith("rank"):
        data.set_group([200, 200])
    capture = FRONTEND.capture(xgb.train(options, data, 10), ROWS[:50])
    assert disagreement(capture) < 1e-5


def test_missing_values_take_the_branch_that_xgboost_takes(disagreement: Any) -> None:
    holes = np.where(RNG.random(ROWS.shape) < 0.2, np.nan, ROWS)
    model = xgb.XGBRegressor(**SMALL).fit(holes, TARGET)
    assert disagreement(FRONTEND.capture(model, holes[:60]), batches=()) < 1e-5


def test_integer_categories_are_looked_up_as_sets(disagreement: Any) -> None:
    codes = RNG.integers(0, 30, 600).astype(float)
    target = np.isin(codes, [1, 3, 4, 8, 21]) * 2.0 + np.isin(codes, [2, 8, 25])
    rows = np.c_[codes, RNG.normal(size=600)]
    rows[::17, 0] = np.nan
    data = xgb.DMatrix(rows, target, feature_types=["c", "q"], enable_categorical=True)
    booster = xgb.train({"max_depth": 5, "max_cat_to_onehot": 2, "nthread": 1}, data, 12)
    capture = FRONTEND.capture(booster, rows[:200])
    assert "BRANCH_EQ" in str(capture.model.graph.node[0])
    assert disagreement(capture, batches=()) < 1e-5


def test_early_stopping_keeps_the_best_round_only(disagreement: Any) -> None:
    model = xgb.XGBClassifier(n_estimators=200, learning_rate=0.9, early_stopping_rounds=5, n_jobs=1)
    model.fit(ROWS[:300], CLASS2[:300], eval_set=[(ROWS[300:], CLASS2[300:])], verbose=False)
    capture = FRONTEND.capture(model, ROWS[:50])
    assert disagreement(capture) < 1e-5
    found = capture.run({"X": ROWS.astype(np.float32)})["probabilities"]
    assert np.allclose(found, model.predict_proba(ROWS), atol=1e-6)


@pytest.mark.parametrize("sample", [ROWS[:, :3], np.array([["a"] * 5]), ROWS[:0], ROWS[0]])
def test_a_sample_that_does_not_fit_is_refused(sample: Any) -> None:
    model = xgb.XGBRegressor(**SMALL).fit(ROWS, TARGET)
    with pytest.raises(InvalidError):
        FRONTEND.capture(model, sample)


def test_an_untrained_model_is_refused() -> None:
    with pytest.raises(InvalidError, match="not trained"):
        FRONTEND.capture(xgb.XGBClassifier(), ROWS)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"booster": "gblinear"}, "gblinear"),
        ({"multi_strategy": "multi_output_tree"}, "multi_output_tree"),
        ({"missing": -1.0}, "missing"),
    ],
)
def test_what_the_graph_cannot_say_is_refused(options: dict[str, Any], word: str) -> None:
    target = np.stack([TARGET, -TARGET], axis=1) if "multi_strategy" in options else TARGET
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = xgb.XGBRegressor(n_estimators=3, n_jobs=1, **options).fit(ROWS, target)
    with pytest.raises(UnsupportedError, match=word):
        FRONTEND.capture(model, ROWS)


def test_data_frame_categories_are_refused() -> None:
    import pandas as pd

    frame = pd.DataFrame({"kind": pd.Categorical(np.array(["a", "b", "c"])[CLASS3]), "x": ROWS[:, 0]})
    model = xgb.XGBRegressor(enable_categorical=True, **SMALL).fit(frame, TARGET)
    with pytest.raises(UnsupportedError, match="categories"):
        FRONTEND.capture(model, None)


def test_the_base_score_of_a_probability_is_a_logit() -> None:
    model = xgb.XGBClassifier(n_estimators=1, max_depth=1, base_score=0.2, n_jobs=1).fit(ROWS, CLASS2)
    base = FRONTEND.capture(model, None).model.graph.node[0].attribute
    values = {item.name: item for item in base}["base_values"].floats
    assert values[0] == pytest.approx(math.log(0.2 / 0.8), rel=1e-6)
