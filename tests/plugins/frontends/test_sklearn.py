import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    random_projection,
    svm,
    tree,
)

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.plugins.frontends.sklearn import SklearnFrontend

FRONTEND = SklearnFrontend()
RNG = np.random.default_rng(0)
ROWS = (RNG.normal(size=(240, 5)) * [1, 3, 0.2, 10, 1]).astype(np.float32)
CLASS2 = (ROWS[:, 0] + ROWS[:, 1] / 3 > 0.3).astype(int)
CLASS3 = np.digitize(ROWS[:, 0] + ROWS[:, 1] / 3, [-0.7, 0.7])
WORDS = np.array(["low", "mid", "high"])[CLASS3]
TARGET = ROWS[:, 0] * 3 + np.sin(ROWS[:, 1]) + ROWS[:, 3] / 10
POSITIVE = np.abs(TARGET) + 0.1
Make = Callable[[], Any]


def _chain(*steps: Any) -> Any:
    return pipeline.make_pipeline(*steps)


def _two() -> list[tuple[str, Any]]:
    return [
        ("a", linear_model.LogisticRegression(max_iter=500)),
        ("b", ensemble.RandomForestClassifier(5, random_state=0)),
    ]


def _pair() -> list[tuple[str, Any]]:
    return [("a", linear_model.Ridge()), ("b", ensemble.RandomForestRegressor(5, random_state=0))]


CLASSIFIERS: dict[str, Make] = {
    "logistic": lambda: linear_model.LogisticRegression(max_iter=500),
    "logistic cv": lambda: linear_model.LogisticRegressionCV(
        Cs=2, max_iter=500, l1_ratios=(0,), use_legacy_attributes=False
    ),
    "ridge": lambda: linear_model.RidgeClassifier(),
    "sgd hinge": lambda: linear_model.SGDClassifier(random_state=0),
    "perceptron": lambda: linear_model.Perceptron(random_state=0),
    "random forest": lambda: ensemble.RandomForestClassifier(15, random_state=0),
    "extra trees": lambda: ensemble.ExtraTreesClassifier(15, random_state=0),
    "gradient boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0),
    "hist gradient boosting": lambda: ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0),
    "ada boost": lambda: ensemble.AdaBoostClassifier(n_estimators=5, random_state=0),
    "bagging": lambda: ensemble.BaggingClassifier(n_estimators=4, random_state=0),
    "tree": lambda: tree.DecisionTreeClassifier(random_state=0),
    "svc": lambda: svm.SVC(),
    "nu svc": lambda: svm.NuSVC(nu=0.2),
    "linear svc": lambda: svm.LinearSVC(),
    "mlp": lambda: neural_network.MLPClassifier((8,), max_iter=400, random_state=0),
    "neighbours": lambda: neighbors.KNeighborsClassifier(),
    "gaussian bayes": lambda: naive_bayes.GaussianNB(),
    "bernoulli bayes": lambda: naive_bayes.BernoulliNB(),
    "linear discriminant": lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
    "quadratic discriminant": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(),
    "calibrated": lambda: calibration.CalibratedClassifierCV(ensemble.RandomForestClassifier(4, random_state=0), cv=2),
    "one against rest": lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
    "soft vote": lambda: ensemble.VotingClassifier(_two(), voting="soft"),
    "stack": lambda: ensemble.StackingClassifier(_two(), cv=2),
    "grid search": lambda: model_selection.GridSearchCV(
        _chain(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
        {"logisticregression__C": [0.1, 1]},
        cv=2,
    ),
    "two-class discriminant in a chain": lambda: _chain(
        preprocessing.StandardScaler(), discriminant_analysis.LinearDiscriminantAnalysis()
    ),
    "scaler, svc": lambda: _chain(preprocessing.StandardScaler(), svm.SVC()),
    "scaler, forest": lambda: _chain(
        preprocessing.StandardScaler(), ensemble.RandomForestClassifier(15, random_state=0)
    ),
    "scaler, hist": lambda: _chain(
        preprocessing.StandardScaler(), ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0)
    ),
    "scaler, mlp": lambda: _chain(
        preprocessing.StandardScaler(), neural_network.MLPClassifier((8,), max_iter=400, random_state=0)
    ),
    "range, pca, logistic": lambda: _chain(
        preprocessing.MinMaxScaler(), decomposition.PCA(3), linear_model.LogisticRegression()
    ),
    "imputer, select, neighbours": lambda: _chain(
        impute.SimpleImputer(), feature_selection.SelectKBest(k=3), neighbors.KNeighborsClassifier()
    ),
}

REGRESSORS: dict[str, Make] = {
    "linear": lambda: linear_model.LinearRegression(),
    "ridge": lambda: linear_model.Ridge(),
    "lasso": lambda: linear_model.Lasso(),
    "elastic net": lambda: linear_model.ElasticNet(),
    "bayesian ridge": lambda: linear_model.BayesianRidge(),
    "huber": lambda: linear_model.HuberRegressor(max_iter=1000),
    "poisson": lambda: linear_model.PoissonRegressor(max_iter=1000),
    "gamma": lambda: linear_model.GammaRegressor(max_iter=1000),
    "ransac": lambda: linear_model.RANSACRegressor(random_state=0),
    "random forest": lambda: ensemble.RandomForestRegressor(15, random_state=0),
    "extra trees": lambda: ensemble.ExtraTreesRegressor(15, random_state=0),
    "gradient boosting": lambda: ensemble.GradientBoostingRegressor(n_estimators=10, random_state=0),
    "hist gradient boosting": lambda: ensemble.HistGradientBoostingRegressor(max_iter=10, random_state=0),
    "ada boost": lambda: ensemble.AdaBoostRegressor(n_estimators=5, random_state=0),
    "tree": lambda: tree.DecisionTreeRegressor(random_state=0),
    "svr": lambda: svm.SVR(),
    "linear svr": lambda: svm.LinearSVR(max_iter=5000, random_state=0),
    "mlp": lambda: neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=100, random_state=0),
    "neighbours": lambda: neighbors.KNeighborsRegressor(),
    "gaussian process": lambda: gaussian_process.GaussianProcessRegressor(alpha=0.1),
    "partial least squares": lambda: cross_decomposition.PLSRegression(2),
    "vote": lambda: ensemble.VotingRegressor(_pair()),
    "stack": lambda: ensemble.StackingRegressor(_pair(), cv=2),
    "polynomial, ridge": lambda: _chain(preprocessing.PolynomialFeatures(2), linear_model.Ridge()),
    "power, ridge": lambda: _chain(preprocessing.PowerTransformer(), linear_model.Ridge()),
    "scaler, forest": lambda: _chain(
        preprocessing.StandardScaler(), ensemble.RandomForestRegressor(15, random_state=0)
    ),
    "robust, svr": lambda: _chain(preprocessing.RobustScaler(), svm.SVR()),
}

OTHERS: dict[str, Make] = {
    "standard": lambda: preprocessing.StandardScaler(),
    "min max": lambda: preprocessing.MinMaxScaler(),
    "max abs": lambda: preprocessing.MaxAbsScaler(),
    "robust": lambda: preprocessing.RobustScaler(),
    "normalizer": lambda: preprocessing.Normalizer(),
    "binarizer": lambda: preprocessing.Binarizer(),
    "bins": lambda: preprocessing.KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
    "pca": lambda: decomposition.PCA(3),
    "svd": lambda: decomposition.TruncatedSVD(3, random_state=0),
    "kernel pca": lambda: decomposition.KernelPCA(3, kernel="rbf"),
    "power": lambda: preprocessing.PowerTransformer(),
    "quantile": lambda: preprocessing.QuantileTransformer(n_quantiles=10),
    "variance": lambda: feature_selection.VarianceThreshold(),
    "imputer": lambda: impute.SimpleImputer(),
    "nearest imputer": lambda: impute.KNNImputer(),
    "projection": lambda: random_projection.GaussianRandomProjection(3, random_state=0),
    "k means": lambda: cluster.KMeans(3, n_init=2, random_state=0),
    "isolation forest": lambda: ensemble.IsolationForest(n_estimators=10, random_state=0),
    "one class svm": lambda: svm.OneClassSVM(),
    "local outlier factor": lambda: neighbors.LocalOutlierFactor(novelty=True),
    "mixture": lambda: mixture.GaussianMixture(2, random_state=0),
    "scaler, k means": lambda: _chain(preprocessing.StandardScaler(), cluster.KMeans(3, n_init=2, random_state=0)),
}


def _fit(model: Any, rows: Any, target: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(rows, target)


@pytest.mark.parametrize("classes", ["two", "three", "words"])
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_classifier_agrees_in_label_and_probability(case: str, classes: str, disagreement: Any) -> None:
    target = {"two": CLASS2, "three": CLASS3, "words": WORDS}[classes]
    capture = FRONTEND.capture(_fit(CLASSIFIERS[case](), ROWS, target), ROWS[:60])
    assert [item.name for item in capture.model.graph.output] == ["label", "probabilities"]
    assert disagreement(capture) < 1e-4


@pytest.mark.parametrize("case", REGRESSORS)
def test_a_regressor_agrees(case: str, disagreement: Any) -> None:
    target = POSITIVE if case in ("poisson", "gamma") else TARGET
    capture = FRONTEND.capture(_fit(REGRESSORS[case](), ROWS, target), ROWS[:60])
    assert disagreement(capture) < 1e-4


@pytest.mark.parametrize("case", OTHERS)
def test_a_transformer_clusterer_or_detector_agrees(case: str, disagreement: Any) -> None:
    capture = FRONTEND.capture(_fit(OTHERS[case](), ROWS, CLASS2), ROWS[:60])
    assert disagreement(capture) < 1e-4


def _shape(item: Any) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]


def test_inputs_and_outputs_have_a_batch_that_was_seen_to_follow_the_rows() -> None:
    capture = FRONTEND.capture(linear_model.LogisticRegression().fit(ROWS, CLASS3), ROWS[:1])
    graph = capture.model.graph
    assert _shape(graph.input[0]) == ["batch", 5]
    assert [_shape(item) for item in graph.output] == [["batch"], ["batch", 3]]


FRAME = pd.DataFrame(
    {
        "age (years)": RNG.integers(18, 80, 240),
        "temp": ROWS[:, 0].astype(float),
        "kind": np.array(["a", "b", "c"])[RNG.integers(0, 3, 240)],
        "flag": ROWS[:, 1] > 0,
        "grade": RNG.integers(0, 4, 240),
    }
)


def _columns(last: Any) -> Any:
    numbers = _chain(impute.SimpleImputer(), preprocessing.StandardScaler())
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore")
    steps = [
        ("numbers", numbers, ["age (years)", "temp"]),
        ("words", encoder, ["kind"]),
        ("grades", preprocessing.OneHotEncoder(), ["grade"]),
    ]
    return _chain(compose.ColumnTransformer(steps, remainder="passthrough"), last)


TABLES: dict[str, Make] = {
    "logistic": lambda: _columns(linear_model.LogisticRegression(max_iter=2000)),
    "forest": lambda: _columns(ensemble.RandomForestClassifier(10, random_state=0)),
    "hist": lambda: _columns(ensemble.HistGradientBoostingClassifier(max_iter=5, random_state=0)),
    "svc": lambda: _columns(svm.SVC()),
    "grid": lambda: model_selection.GridSearchCV(
        _columns(linear_model.LogisticRegression(max_iter=2000)), {"logisticregression__C": [0.1, 1]}, cv=2
    ),
    "selector": lambda: _chain(
        compose.make_column_transformer(
            (preprocessing.MinMaxScaler(), compose.make_column_selector(dtype_include=np.number)),
            (preprocessing.OrdinalEncoder(), compose.make_column_selector(dtype_include=[object, "str"])),
        ),
        linear_model.LogisticRegression(max_iter=2000),
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_pipeline_over_columns_agrees_and_keeps_their_names(case: str, disagreement: Any) -> None:
    model = _fit(TABLES[case](), FRAME, CLASS2)
    capture = FRONTEND.capture(model, FRAME.head(40))
    assert capture.sample is not None
    assert set(capture.sample) == {item.name for item in capture.model.graph.input} == set(FRAME)
    assert capture.sample["kind"].shape == (40, 1)
    assert disagreement(capture) < 1e-4


def test_missing_numbers_and_unseen_words_are_handled_as_in_training(disagreement: Any) -> None:
    model = _fit(TABLES["logistic"](), FRAME, CLASS2)
    odd = FRAME.head(12).copy()
    odd.loc[3, "temp"] = np.nan
    odd.loc[4, "kind"] = "never seen"
    assert disagreement(FRONTEND.capture(model, odd)) < 1e-4


@pytest.mark.parametrize("last", [linear_model.LogisticRegression, ensemble.RandomForestClassifier])
def test_a_bare_estimator_fitted_on_a_table_takes_its_columns(last: Any, disagreement: Any) -> None:
    frame = FRAME[["age (years)", "temp", "grade", "flag"]]
    capture = FRONTEND.capture(_fit(last(), frame, CLASS2), frame.head(40))
    assert len(capture.model.graph.input) == 4
    assert disagreement(capture) < 1e-4


def test_a_column_that_is_not_there_is_named() -> None:
    model = _fit(TABLES["logistic"](), FRAME, CLASS2)
    with pytest.raises(InvalidError, match="`grade`"):
        FRONTEND.capture(model, FRAME.drop(columns="grade"))


def test_a_table_model_without_a_sample_asks_for_one() -> None:
    with pytest.raises(InvalidError, match="needs a sample"):
        FRONTEND.capture(_fit(TABLES["logistic"](), FRAME, CLASS2), None)


def test_columns_that_training_did_not_see_are_left_out(disagreement: Any) -> None:
    model = _fit(TABLES["logistic"](), FRAME, CLASS2)
    capture = FRONTEND.capture(model, FRAME.assign(target=CLASS2).head(9))
    assert len(capture.model.graph.input) == 5
    assert disagreement(capture) < 1e-4


def test_text_goes_in_as_text(disagreement: Any) -> None:
    texts = np.array(["red fox runs", "blue dog sleeps", "red dog", "a fox, and a dog"] * 5)
    model = _chain(feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression())
    capture = FRONTEND.capture(model.fit(texts, [0, 1, 0, 1] * 5), texts)
    assert disagreement(capture) < 1e-4


def test_one_hot_codes_of_words_in_a_matrix(disagreement: Any) -> None:
    rows = FRAME[["kind"]].to_numpy().astype(object).repeat(2, axis=1)
    capture = FRONTEND.capture(preprocessing.OneHotEncoder().fit(rows), rows)
    assert disagreement(capture) < 1e-4


def test_two_targets_come_out_as_two_columns(disagreement: Any) -> None:
    both = np.stack([TARGET, -TARGET], axis=1)
    for model in (linear_model.Ridge(), multioutput.MultiOutputRegressor(linear_model.Ridge())):
        capture = FRONTEND.capture(model.fit(ROWS, both), ROWS[:40])
        assert _shape(capture.model.graph.output[0]) == ["batch", 2]
        assert disagreement(capture) < 1e-4


def test_what_float32_cannot_carry_is_computed_in_float64_behind_float32_inputs(disagreement: Any) -> None:
    model = gaussian_process.GaussianProcessRegressor(alpha=1e-3).fit(ROWS, TARGET)
    capture = FRONTEND.capture(model, ROWS[:60])
    assert any("float64 inside" in note for note in capture.notes)
    assert capture.model.graph.input[0].type.tensor_type.elem_type == 1
    assert capture.model.graph.output[0].type.tensor_type.elem_type == 1
    assert disagreement(capture) < 1e-4


def test_a_forest_behind_a_scaler_takes_the_same_branches() -> None:
    import onnxruntime

    tenths = np.round(RNG.normal(size=(3000, 6)) * 50, 1)
    target = np.sin(tenths).sum(axis=1)
    model = _chain(preprocessing.StandardScaler(), ensemble.ExtraTreesRegressor(10, random_state=0))
    capture = FRONTEND.capture(model.fit(tenths, target), tenths)
    assert capture.sample is not None
    session = onnxruntime.InferenceSession(capture.model.SerializeToString())
    found = session.run(None, dict(capture.sample))[0]
    wanted = capture.run(capture.sample)["variable"]
    assert np.abs(found - np.asarray(wanted)).max() < 1e-4


def test_a_vote_by_majority_gives_labels_alone(disagreement: Any) -> None:
    capture = FRONTEND.capture(ensemble.VotingClassifier(_two()).fit(ROWS, CLASS3), ROWS[:60])
    assert [item.name for item in capture.model.graph.output] == ["label"]
    assert disagreement(capture) == 0


def test_a_search_is_captured_as_what_it_found(disagreement: Any) -> None:
    forest = ensemble.RandomForestClassifier(4, random_state=0)
    search = model_selection.RandomizedSearchCV(forest, {"max_depth": [2, 3]}, n_iter=2, cv=2, random_state=0)
    assert disagreement(FRONTEND.capture(search.fit(ROWS, CLASS3), ROWS[:60])) < 1e-4


@pytest.mark.parametrize(
    ("model", "target", "word"),
    [
        (ensemble.RandomForestClassifier(3), np.stack([CLASS3, CLASS2], axis=1), "several labels"),
        (neighbors.NearestNeighbors(), CLASS2, "neither predicts nor transforms"),
    ],
)
def test_answers_without_a_form_are_refused(model: Any, target: Any, word: str) -> None:
    with pytest.raises(UnsupportedError, match=word):
        FRONTEND.capture(_fit(model, ROWS, target), ROWS[:9])


def test_boosters_of_other_libraries_inside_a_pipeline(disagreement: Any) -> None:
    import lightgbm
    import xgboost

    for last in (
        lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1),
        lightgbm.LGBMRegressor(n_estimators=8, verbose=-1, n_jobs=1),
        xgboost.XGBClassifier(n_estimators=8, n_jobs=1),
        xgboost.XGBRegressor(n_estimators=8, n_jobs=1),
    ):
        model = _fit(_chain(preprocessing.StandardScaler(), last), ROWS, CLASS3)
        assert disagreement(FRONTEND.capture(model, ROWS[:60])) < 1e-4


def test_the_model_of_the_user_is_left_as_it_was() -> None:
    model = ensemble.VotingClassifier(_two(), voting="soft").fit(ROWS, CLASS3)
    FRONTEND.capture(model, ROWS[:9])
    assert model.flatten_transform
    hist = ensemble.HistGradientBoostingClassifier(max_iter=3).fit(ROWS, CLASS3)
    before = hist.predict_proba(ROWS)
    FRONTEND.capture(hist, ROWS[:9])
    assert np.array_equal(hist.predict_proba(ROWS), before)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (preprocessing.FunctionTransformer(np.log1p), "Python function"),
        (decomposition.NMF(2), "no converter for `NMF`"),
        (preprocessing.SplineTransformer(), "no converter for `SplineTransformer`"),
        (multiclass.OneVsOneClassifier(linear_model.LogisticRegression()), "OneVsOne"),
        (ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=3), "logarithm"),
        (ensemble.HistGradientBoostingClassifier(categorical_features=[0], max_iter=3), "categorical"),
    ],
)
def test_what_has_no_sound_conversion_is_refused(model: Any, word: str) -> None:
    rows = np.round(np.abs(ROWS))
    with pytest.raises(UnsupportedError, match=word):
        FRONTEND.capture(_fit(model, rows, CLASS3), rows[:9])


def test_a_refused_step_is_found_inside_a_pipeline() -> None:
    steps = compose.ColumnTransformer([("log", preprocessing.FunctionTransformer(np.log1p), [0])])
    model = _fit(_chain(steps, linear_model.Ridge()), np.abs(ROWS), TARGET)
    assert [item.verdict for item in FRONTEND.refusals(model)] == ["never"]


@pytest.mark.parametrize("sample", [ROWS[:, :3], ROWS[0], ROWS[:0], np.array([["a"] * 5]), ROWS[None]])
def test_a_sample_that_does_not_fit_is_refused(sample: Any) -> None:
    with pytest.raises(InvalidError):
        FRONTEND.capture(linear_model.Ridge().fit(ROWS, TARGET), sample)


def test_an_unfitted_estimator_is_refused() -> None:
    with pytest.raises(InvalidError, match="not fitted"):
        FRONTEND.capture(_chain(preprocessing.StandardScaler(), svm.SVC()), ROWS)


def test_without_a_sample_a_matrix_model_is_still_captured(disagreement: Any) -> None:
    capture = FRONTEND.capture(svm.SVR().fit(ROWS, TARGET), None)
    assert capture.sample is None
    assert disagreement(capture, {"X": ROWS}) < 1e-4
