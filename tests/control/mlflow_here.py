"""What tests of tracking need of MLflow: a Python that has it, its routes, and scripts as its users write them."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tilth import wiring
from tilth.core.errors import TilthError

PYTHON = os.environ.get("TILTH_TRACKING_PYTHON", sys.executable)


@cache
def missing() -> str:
    """Return why there is no MLflow here, empty when there is."""
    try:
        wiring.trackers()[0].version(PYTHON)
    except TilthError as error:
        return f"{error.what}; {error.why}"
    return ""


needs_mlflow = pytest.mark.skipif(bool(missing()), reason=f"{missing()}; TILTH_TRACKING_PYTHON may name another Python")

_WALK = """
import os, sys, json, warnings
warnings.simplefilter("ignore")
os.environ["_MLFLOW_SERVER_FILE_STORE"] = "sqlite:///" + sys.argv[1]
os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
from mlflow.server.fastapi_app import app
from mlflow.server import app as flask
found = []
def walk(routes, before):
    for route in routes:
        if hasattr(route, "original_router"):
            walk(route.original_router.routes, before + route.include_context.prefix)
        elif getattr(route, "methods", None) is not None:
            found.extend((method, before + route.path) for method in route.methods)
        elif type(route).__name__ != "Mount" or type(route.app).__name__ != "_EfficientWSGIMiddleware":
            found.append(("?", f"{before}{route!r}"))
walk(app.routes, "")
found += [(method, rule.rule) for rule in flask.url_map.iter_rules() for method in rule.methods]
print(json.dumps(found))
"""

TRAIN = """
import json, sys
import mlflow, mlflow.onnx, mlflow.sklearn, numpy, onnx
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

x = numpy.random.default_rng(0).normal(size=(64, 4)).astype(numpy.float32)
y = (x[:, 0] > 0).astype(int)
mlflow.set_experiment("turbines")
with mlflow.start_run() as run:
    mlflow.log_params({"C": 1.0})
    mlflow.set_tag("mlflow.source.git.commit", "9fceb02d0ae598e95dc970b74767f19372d61af8")
    for step in range(20):
        mlflow.log_metric("loss", 1 / (1 + step), step=step)
    mlflow.log_input(mlflow.data.from_numpy(x, name="vibration"), context="training")
    mlflow.log_text("hello", "notes/read me.txt")
    model = LogisticRegression().fit(x, y)
    sk = mlflow.sklearn.log_model(model, name="sk", registered_model_name="turbine", input_example=x[:3],
                                  serialization_format="cloudpickle")
    w = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], numpy.ones(8, numpy.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])], [w])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    mlflow.onnx.log_model(made, name="graph")
again = mlflow.sklearn.load_model(sk.model_uri)
assert (again.predict(x) == model.predict(x)).all()
print(json.dumps({"run": run.info.run_id, "experiment": run.info.experiment_id}))
"""


def routes(folder: Path) -> list[tuple[str, str]]:
    """Return method and path of every route of MLflow's own application, of both frameworks that it is made of."""
    done = subprocess.run(
        [PYTHON, "-I", "-c", _WALK, str(folder / "walk.db")], capture_output=True, text=True, check=True, cwd=folder
    )
    return [(method, path) for method, path in json.loads(done.stdout) if method not in ("HEAD", "OPTIONS")]


def script(folder: Path, text: str, uri: str, token: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a user's script, which is told of the server by MLflow's two variables and nothing else."""
    given = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_TOKEN": token} if token else {"MLFLOW_TRACKING_URI": uri}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [PYTHON, "-c", text], env=kept | quiet | given | more, cwd=folder, capture_output=True, text=True, check=False
    )


def said(done: "subprocess.CompletedProcess[str]") -> Any:
    """Return the JSON of the last line that a script printed."""
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
