from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tilth.plugins.frontends.lightgbm import LightGBMFrontend
from tilth.plugins.frontends.onnx_file import OnnxFrontend
from tilth.plugins.frontends.sklearn import SklearnFrontend
from tilth.plugins.frontends.torch import TorchFrontend
from tilth.plugins.frontends.xgboost import XGBoostFrontend
from tilth.testing.frontend_suite import FrontendSuite

ROWS = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
CLASSES = np.digitize(ROWS[:, 0] + ROWS[:, 1], [-0.5, 0.5])


class TestOnnx(FrontendSuite):
    frontend = OnnxFrontend()
    packages = ("onnxruntime",)

    def make_model(self) -> tuple[Any, Any]:
        node = helper.make_node("Softmax", ["x"], ["y"])
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
        graph = helper.make_graph([node], "g", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return model, ROWS[:8]

    def unsupported_model(self) -> Any:
        node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
        entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
        answer = helper.make_value_info("y", helper.make_sequence_type_proto(entry))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(helper.make_graph([node], "g", [given], [answer]), opset_imports=opsets, ir_version=9)


class TestSklearn(FrontendSuite):
    frontend = SklearnFrontend()
    packages = ("sklearn", "skl2onnx")

    def make_model(self) -> tuple[Any, Any]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, CLASSES), ROWS[:8]

    def unsupported_model(self) -> Any:
        from sklearn.decomposition import FactorAnalysis

        return FactorAnalysis(2).fit(ROWS)


class TestSklearnTable(FrontendSuite):
    frontend = SklearnFrontend()

    def make_model(self) -> tuple[Any, Any]:
        import pandas
        from sklearn.compose import make_column_transformer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler
        from sklearn.tree import DecisionTreeClassifier

        words = np.array(["red", "green", "blue"])[np.digitize(ROWS[:, 2], [-0.5, 0.5])]
        frame = pandas.DataFrame({"speed (m/s)": ROWS[:, 0], "heat": ROWS[:, 1], "colour": words})
        columns = make_column_transformer(
            (StandardScaler(), ["speed (m/s)", "heat"]), (OneHotEncoder(handle_unknown="ignore"), ["colour"])
        )
        model = make_pipeline(columns, DecisionTreeClassifier(max_depth=4, random_state=0))
        return model.fit(frame, np.array(["a", "b", "c"])[CLASSES]), frame.head(8)


class TestLightGBM(FrontendSuite):
    frontend = LightGBMFrontend()
    packages = ("lightgbm",)

    def make_model(self) -> tuple[Any, Any]:
        import lightgbm

        return lightgbm.LGBMClassifier(n_estimators=4, verbose=-1, n_jobs=1).fit(ROWS, CLASSES), ROWS[:8]

    def unsupported_model(self) -> Any:
        import lightgbm

        return lightgbm.LGBMRegressor(n_estimators=2, linear_tree=True, verbose=-1, n_jobs=1).fit(ROWS, ROWS[:, 0])


class TestXGBoost(FrontendSuite):
    frontend = XGBoostFrontend()
    packages = ("xgboost",)

    def make_model(self) -> tuple[Any, Any]:
        import xgboost

        return xgboost.XGBClassifier(n_estimators=4, max_depth=3, n_jobs=1).fit(ROWS, CLASSES), ROWS[:8]

    def unsupported_model(self) -> Any:
        import xgboost

        return xgboost.XGBRegressor(n_estimators=2, booster="gblinear", n_jobs=1).fit(ROWS, ROWS[:, 0])


class TestTorch(FrontendSuite):
    frontend = TorchFrontend()
    packages = ("torch", "onnxscript")

    def make_model(self) -> tuple[Any, Any]:
        import torch

        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)), ROWS[:8]
