"""MLflow as a tracker: nothing passes that leads out of its place, and a model is found or refused with a reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tilth import wiring
from tilth.client.errors import ForbiddenError
from tilth.control.tracking.screen import Rules
from tilth.core.errors import InvalidError, MissingError, TilthError, UnsupportedError
from tilth.plugins.trackers.mlflow import MlflowTracker
from tilth.ports.tracker import Ground

TRACKER = MlflowTracker()
RULES = Rules(TRACKER.rules())
RUN, MODEL = "a" * 32, "m-" + "b" * 32


def right_of(method: str, path: str) -> str:
    """Return what a request needs, `closed` and `unknown` among the answers."""
    try:
        return RULES.find(method, path).right
    except ForbiddenError:
        return "closed"
    except MissingError:
        return "unknown"


# -- what may be asked


@pytest.mark.parametrize(
    "path",
    ["gateway/openai/v1/chat/completions", "gateway/proxy/x/y", "ajax-api/3.0/jobs/", "ajax-api/3.0/jobs/search",
     "ajax-api/3.0/mlflow/assistant/message", "ajax-api/2.0/mlflow/gateway-proxy", "api/2.0/mlflow/webhooks",
     "api/2.0/mlflow/webhooks/1/test", "api/3.0/mlflow/scorers/register", "ajax-api/3.0/mlflow/genai/evaluate/invoke",
     "api/3.0/mlflow/gateway/secrets/get", "api/2.0/mlflow-artifacts/presigned/x", "api/3.0/mlflow/mcp-servers",
     "api/2.0/mlflow/artifacts/presigned-download-url", "ajax-api/2.0/mlflow/runs/create-promptlab-run",
     "api/2.0mlflow/experiments/search-datasets", "build/../x", "api/3.0/mlflow/workspaces"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_what_calls_other_services_or_runs_code_is_closed_by_every_method(method: str, path: str) -> None:
    assert right_of(method, path) == "closed"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "metrics"), ("GET", "api/2.0/mlflow/users/get"), ("POST", "api/2.0/mlflow/users/create"),
     ("GET", "signup"), ("PATCH", "api/2.0/mlflow/users/update-password"), ("GET", "api/2.1/mlflow/runs/get"),
     ("GET", "API/2.0/mlflow/runs/get"),
     ("GET", "api/2.0/mlflow/runs/get/"), ("POST", "api/2.0/mlflow/runs/get"), ("PUT", "api/2.0/mlflow/runs/create"),
     ("GET", "docs"), ("GET", "openapi.json"), ("HEAD", "health"), ("OPTIONS", "health"), ("GET", "static-files")],
)  # fmt: skip
def test_what_it_does_not_list_does_not_pass(method: str, path: str) -> None:
    assert right_of(method, path) == "unknown"


def test_deletions_and_changes_of_what_is_registered_are_for_administrators() -> None:
    base = "api/2.0/mlflow"
    for path in ("runs/delete", "runs/restore", "experiments/delete", "registered-models/alias",
                 "registered-models/rename", "model-versions/transition-stage"):  # fmt: skip
        assert right_of("POST", f"{base}/{path}") == "rule"
    assert right_of("DELETE", "api/2.0/mlflow-artifacts/artifacts/1/x") == "rule"
    assert right_of("POST", f"{base}/registered-models/create") == "write"
    assert right_of("PUT", "api/2.0/mlflow-artifacts/artifacts/1/x") == "write"


# -- places


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("model-versions/create", {"source": "/etc"}),
        ("model-versions/create", {"source": "file:///etc"}),
        ("model-versions/create", {"source": "http://169.254.169.254/"}),
        ("model-versions/create", {"source": "s3://other/bucket"}),
        ("model-versions/create", {"source": "mlflow-artifacts:/../../etc"}),
        ("model-versions/create", {"source": "runs:/x/../../etc"}),
        ("model-versions/create", {"source": "mlflow-artifacts:/1/%2e%2e/x"}),
        ("model-versions/create", {"source": "mlflow-artifacts://evil.example\\x"}),
        ("model-versions/create", {"source": "models:/m?x"}),
        ("model-versions/create", {"source": ["file:///etc"]}),
        ("model-versions/create", {"name": "no source"}),
        ("experiments/create", {"artifact_location": "/etc"}),
        ("experiments/create", {"artifactLocation": "file:///etc"}),
        ("experiments/create", {"artifact_location": "s3://x"}),
        ("experiments/create", {"artifact_location": {"x": 1}}),
        ("experiments/create", {"artifact_location": "mlflow-artifacts:/a#/../../etc"}),
        ("traces/tr-1/tags", {"key": "mlflow.artifactLocation", "value": "file:///etc"}),
        ("traces", {"trace": {"trace_info": {"tags": {"mlflow.artifactLocation": "/etc"}}}}),
        ("traces", {"a": [{"b": [{"key": "mlflow.artifactLocation", "value": "../x"}]}]}),
        ("runs/create", {"x": {"artifact_uri": "/etc"}}),
    ],
)
def test_a_place_outside_the_artifacts_is_refused_wherever_it_stands(path: str, body: Any) -> None:
    assert TRACKER.refusal(f"api/2.0/mlflow/{path}", body)


def test_what_the_client_sends_of_its_own_places_passes() -> None:
    for path, body in (
        ("model-versions/create", {"name": "m", "source": f"models:/{MODEL}", "run_id": RUN}),
        ("model-versions/create", {"name": "m", "source": f"mlflow-artifacts:/1/models/{MODEL}/artifacts"}),
        ("model-versions/create", {"name": "m", "source": f"runs:/{RUN}/model"}),
        ("experiments/create", {"name": "e", "artifact_location": ""}),
        ("experiments/create", {"name": "e", "artifact_location": "mlflow-artifacts:/7"}),
        ("traces/tr-1/tags", {"key": "mlflow.trace.spansLocation", "value": "TRACKING_STORE"}),
        ("runs/log-inputs", {"datasets": [{"dataset": {"name": "d", "source": "/home/me/data.csv"}}]}),
        ("runs/set-tag", {"key": "mlflow.source.name", "value": "/home/me/train.py"}),
        ("runs/log-batch", None),
    ):
        assert TRACKER.refusal(f"api/2.0/mlflow/{path}", body) == ""


def test_a_body_that_is_nested_without_end_is_refused() -> None:
    body: Any = {}
    for _ in range(100):
        body = {"a": body}
    assert "nested" in TRACKER.refusal("runs/create", body)


# -- pages


def test_its_pages_run_no_script_that_somebody_has_logged() -> None:
    policy = dict(part.strip().partition(" ")[::2] for part in TRACKER.page_policy("http://h:1/mlflow/").split(";"))
    assert policy["script-src"] == "http://h:1/mlflow/static-files/" and policy["default-src"] == "'none'"
    assert policy["connect-src"].startswith("http://h:1/mlflow/") and policy["frame-ancestors"] == "'none'"
    assert "'unsafe-eval'" not in json.dumps(policy) and "'unsafe-inline'" not in policy["script-src"]


# -- the process


def test_it_is_started_without_what_the_user_set_for_another_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("MLFLOW_ENABLE_REMOTE_ASSISTANT", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "MLFLOW_AUTH_CONFIG_PATH"):
        monkeypatch.setenv(name, "1")
    start = TRACKER.start(Ground("python", tmp_path, "/artifacts", 3, 1))
    assert start.environment["MLFLOW_ENABLE_REMOTE_ASSISTANT"] == "false"
    assert not {"PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "MLFLOW_AUTH_CONFIG_PATH"} & set(start.environment)
    cloud = TRACKER.start(Ground("python", tmp_path, "s3://bucket/x", 3, 1))
    assert cloud.environment["AWS_SECRET_ACCESS_KEY"] == "1"


def test_a_place_that_it_cannot_write_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="az://"):
        TRACKER.start(Ground("python", tmp_path, "az://bucket/x", 3, 1))


def test_a_python_without_it_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(
        "#!/bin/sh\necho 'No package metadata was found for mlflow' >&2; exit 1\n", "utf-8"
    )
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(MissingError) as caught:
        TRACKER.version(str(tmp_path / "python"))
    assert "--tracking-python" in caught.value.hint and "No package metadata" in caught.value.why
    with pytest.raises(MissingError):
        TRACKER.version(str(tmp_path / "nothing"))


@pytest.mark.parametrize("said", ["2.22.0", "3.16.9", "4.0.0"])
def test_a_version_whose_routes_nobody_read_is_refused(tmp_path: Path, said: str) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\necho {said}\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(UnsupportedError, match=re.escape(said)):
        TRACKER.version(str(tmp_path / "python"))


# -- logged models


def test_it_is_the_tracker_that_is_started() -> None:
    assert wiring.trackers()[0].name == "mlflow"


def test_addresses_of_logged_models() -> None:
    assert TRACKER.named(f"mlflow:{RUN}") == (RUN, "")
    assert TRACKER.named(f"runs:/{RUN}/my/model") == (RUN, "my/model")
    assert TRACKER.named("model.onnx") is None and TRACKER.named("package.module:factory") is None
    for bad in ("mlflow:", "runs:/x/model", f"mlflow:{RUN}/../x", f"mlflow:{RUN}//x", f"mlflow:{RUN.upper()}"):
        with pytest.raises(InvalidError):
            TRACKER.named(bad)


class Told:
    """What a tracking server tells of one run, with files in memory."""

    def __init__(self, files: dict[str, bytes], *, uri: str = "mlflow-artifacts:/1/m", models: int = 1) -> None:
        self.files, self.uri, self.models = files, uri, models

    def ask(self, path: str, query: Any) -> Any:
        if path.endswith("runs/get"):
            tags = [
                {"key": "mlflow.source.git.commit", "value": "9fceb02"},
                {"key": "mlflow.parentRunId", "value": "p"},
            ]
            dataset = {"dataset": {"name": "train", "digest": "8ec4"}}
            outputs = [{"model_id": f"{MODEL}{number}"} for number in range(self.models)]
            return {"run": {
                "info": {"run_name": "good", "artifact_uri": "mlflow-artifacts:/1/run"},
                "data": {"tags": tags, "params": [{"key": "C", "value": "1"}],
                         "metrics": [{"key": "a", "value": "NaN"}]},
                "inputs": {"dataset_inputs": [dataset]}, "outputs": {"model_outputs": outputs},
            }}  # fmt: skip
        if "logged-models" in path:
            return {"model": {"info": {"name": f"model{path[-1]}", "artifact_uri": self.uri}}}
        if query["path"] not in ("1/m", "1/run/old"):
            return {"files": []}
        return {"files": [{"path": name, "is_dir": False, "file_size": len(data)} for name, data in self.files.items()]}

    def read(self, where: str) -> bytes:
        return self.files[where.rpartition("/")[2]]


def described(flavours: str) -> bytes:
    return f"flavors:\n{flavours}".encode()


SKLEARN = described("  sklearn: {pickled_model: model.skops}\n")


def test_a_run_becomes_a_lineage() -> None:
    told = Told({"MLmodel": SKLEARN, "model.skops": b"x"})
    found = TRACKER.find(told.ask, told.read, RUN, "")
    assert (found.run.code, found.run.parent, found.run.data) == ("git:9fceb02", "p", ("train@8ec4",))
    assert found.is_code and found.opens == "model.skops" and found.flavour == "sklearn" and found.name == "model0"
    assert {file.where for file in found.files} >= {"api/2.0/mlflow-artifacts/artifacts/1/m/model.skops"}


def test_a_model_among_the_artifacts_of_a_run_is_found_as_version_2_left_it() -> None:
    told = Told({"MLmodel": described("  onnx: {data: model.onnx}\n"), "model.onnx": b"x"}, models=0)
    found = TRACKER.find(told.ask, told.read, RUN, "old")
    assert not found.is_code and found.files[1].where.endswith("1/run/old/model.onnx")
    with pytest.raises(MissingError, match="no model"):
        TRACKER.find(told.ask, told.read, RUN, "")


def test_a_graph_is_preferred_to_a_pickle_of_the_same_model() -> None:
    both = described("  sklearn: {pickled_model: model.pkl}\n  onnx: {data: model.onnx}\n")
    told = Told({"MLmodel": both, "model.onnx": b"x", "model.pkl": b"x"})
    assert TRACKER.find(told.ask, told.read, RUN, "").opens == "model.onnx"


def test_one_of_several_models_is_never_guessed() -> None:
    told = Told({"MLmodel": SKLEARN}, models=2)
    with pytest.raises(InvalidError) as caught:
        TRACKER.find(told.ask, told.read, RUN, "")
    assert "`model0`" in caught.value.why


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (Told({"MLmodel": described("  spark: {}\n"), "x": b""}), UnsupportedError),
        (Told({"MLmodel": described("  pytorch: {model_data: data}\n"), "data": b""}), UnsupportedError),
        (Told({"MLmodel": SKLEARN}), InvalidError),
        (Told({"MLmodel": b"flavors: [1"}), InvalidError),
        (Told({"MLmodel": b"!!python/object/apply:os.system ['true']"}), InvalidError),
        (Told({"MLmodel": b"no: flavours"}), InvalidError),
        (Told({"other": b""}), MissingError),
        (Told({"MLmodel": SKLEARN, "..": b""}), InvalidError),
        (Told({"MLmodel": SKLEARN, "a\\b": b""}), InvalidError),
        (Told({"MLmodel": SKLEARN}, uri="s3://elsewhere/m"), UnsupportedError),
        (Told({"MLmodel": SKLEARN}, uri="file:///etc"), UnsupportedError),
    ],
)
def test_a_model_that_cannot_be_imported_is_refused_with_a_reason(told: Told, error: type[TilthError]) -> None:
    with pytest.raises(error) as caught:
        TRACKER.find(told.ask, told.read, RUN, "")
    assert caught.value.why
