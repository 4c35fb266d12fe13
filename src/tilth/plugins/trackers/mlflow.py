"""MLflow: its server below the control plane's login, and the models that are logged there.

MLflow answers by two frameworks at once, and not all of its own authentication covers both (CVE-2026-0545), so none of
it is used: its server listens on a Unix socket alone, and `rules` lists every request that may reach it. What makes the
server call other services or run code is closed to everybody. Read from MLflow 3.17.2.
"""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.ports.tracker import Ask, Carries, Ground, Read, Right, Rule, Start, TrackedFile, TrackedModel, TrackedRun

_LEAST = (3, 17)
_SCHEME = "mlflow-artifacts:"
#: Where an artifact of ours lies, or what is resolved to one by MLflow itself, which checks whose it is.
_PLACE = re.compile(r"(mlflow-artifacts:/|runs:/|models:/)[^\\?#%]*")
_LOCATION_KEYS = ("artifact_location", "artifactLocation", "artifact_uri", "artifactUri", "default_artifact_root")
_LOCATION_TAG = re.compile(r"mlflow\..*[lL]ocation")
_RUN = re.compile(r"[0-9a-f]{32}")
_CLOUD = {"s3": ("AWS_",), "gs": ("GOOGLE_",)}
#: What a request is about, by the field that names it.
_SUBJECTS = {"run_id": "runs", "run_uuid": "runs", "model_id": "logged-models", "experiment_id": "experiments"}
_MOST_FILES, _MOST_DEPTH = 2000, 8
_MOST_FACTS = 64

_CALLS = "it makes the tracking server call other services"
_RUNS = "it makes the tracking server run code"
_LINKS = "it hands out links that pass by this login"
_UNUSED = "it belongs to a part of MLflow that is not offered here"

#: Below `api/2.0/mlflow/` and its like: right, methods, paths. What MLflow itself does not answer stays unanswered.
_API: tuple[tuple[Right, str, str], ...] = (
    (
        "read",
        "GET",
        "artifacts/list datasets/* datasets/*/experiment-ids datasets/*/records datasets/search experiments/get "
        "experiments/get-by-name experiments/search get-online-trace-details logged-models/* "
        "logged-models/*/artifacts/directories metrics/get-history metrics/get-history-bulk "
        "metrics/get-history-bulk-interval model-versions/get model-versions/get-download-uri model-versions/search "
        "registered-models/alias registered-models/get registered-models/get-latest-versions "
        "registered-models/search runs/get server-info traces traces/* traces/*/assessments/* traces/*/info "
        "traces/batchGet traces/get ui-telemetry unified-traces",
    ),
    (
        "read",
        "POST",
        "datasets/search experiments/search experiments/search-datasets logged-models/search "
        "registered-models/get-latest-versions runs/search traces/batchGetInfos traces/calculate-filter-correlation "
        "traces/metrics traces/search",
    ),
    (
        "write",
        "POST",
        "datasets/*/add-experiments datasets/*/records datasets/*/remove-experiments datasets/create "
        "experiments/create experiments/delete-experiment-tag experiments/set-experiment-tag experiments/update "
        "logged-models logged-models/*/params model-versions/create model-versions/set-tag registered-models/create "
        "registered-models/set-tag runs/create runs/delete-tag runs/log-batch runs/log-inputs runs/log-metric "
        "runs/log-model runs/log-parameter runs/outputs runs/set-tag runs/update traces traces/*/assessments "
        "traces/link-prompts traces/link-to-run",
    ),
    (
        "write",
        "PATCH",
        "datasets/*/tags logged-models/* logged-models/*/tags traces/* traces/*/assessments/* traces/*/tags",
    ),
    ("write", "DELETE", "datasets/*/tags/* logged-models/*/tags/* traces/*/tags"),
    (
        "rule",
        "POST",
        "experiments/delete experiments/restore model-versions/transition-stage registered-models/alias "
        "registered-models/rename runs/delete runs/restore traces/delete-traces",
    ),
    ("rule", "PATCH", "model-versions/update registered-models/update"),
    (
        "rule",
        "DELETE",
        "datasets/* datasets/*/records logged-models/* model-versions/delete model-versions/delete-tag "
        "registered-models/alias registered-models/delete registered-models/delete-tag traces/*/assessments/*",
    ),
)
#: Below the same: what is closed, with everything below it.
_CLOSED: Mapping[str, str] = {
    "artifacts/presigned-download-url": _LINKS,
    "artifacts/presigned-upload-url": _LINKS,
    "assistant": _RUNS,
    "demo": _UNUSED,
    "gateway": _CALLS,
    "gateway-proxy": _CALLS,
    "genai": _RUNS,
    "issues": _UNUSED,
    "jobs": _RUNS,
    "label-schemas": _UNUSED,
    "mcp-servers": _CALLS,
    "prompt-optimization": _RUNS,
    "review-queues": _UNUSED,
    "runs/create-promptlab-run": _CALLS,
    "scorer": _RUNS,
    "scorers": _RUNS,
    "ui-telemetry": _CALLS,
    "webhooks": _CALLS,
    "workspaces": _UNUSED,
}

#: Runs in the interpreter that has MLflow. `mlflow server` itself would keep a second process and, unless told
#: otherwise, eight more for jobs (1.4 GB in all against 0.25), and make its socket writable for everybody.
_LAUNCH = """
import ctypes, json, os, resource, signal, sys, warnings
order = json.loads(sys.argv[1])
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != order["parent"]:
    sys.exit(0)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.umask(0o077)
os.chdir(order["folder"])
warnings.simplefilter("ignore")
from mlflow.server import constants as names
os.environ[names.BACKEND_STORE_URI_ENV_VAR] = os.environ[names.REGISTRY_STORE_URI_ENV_VAR] = order["store"]
os.environ[names.SERVE_ARTIFACTS_ENV_VAR] = "true"
os.environ[names.ARTIFACTS_DESTINATION_ENV_VAR] = order["artifacts"]
os.environ[names.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
from mlflow.server.handlers import initialize_backend_stores
initialize_backend_stores(order["store"], order["store"], "mlflow-artifacts:/")
import uvicorn
uvicorn.run(
    "mlflow.server.fastapi_app:app", fd=order["socket"], workers=1, access_log=False, proxy_headers=False,
    server_header=False, ws="none", log_level="warning", timeout_graceful_shutdown=3, timeout_keep_alive=120,
)
"""
#: A graphene that is too old for the graphql-core beside it is what pip makes of some sets of pins.
_ASK_VERSION = "import importlib.metadata as m; print(m.version('mlflow')); import graphene, uvicorn"


class MlflowTracker:
    """MLflow 3.17 and later, in its own Python environment or in ours."""

    name = "mlflow"
    ready = "health"
    headers = ("x-mlflow-experiment-id",)
    variables = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN")

    def version(self, python: str) -> str:
        """Return MLflow's version in an environment, asked in a process of its own.

        Raises:
            MissingError: it is not there, or cannot start.
            UnsupportedError: it is older than 3.17, or of another major version.
        """
        hint = "make an environment for it: `python3 -m venv mlflow && mlflow/bin/pip install 'mlflow>=3.17,<4'`, then"
        hint += " give `--tracking-python mlflow/bin/python`"
        try:
            done = subprocess.run(
                [python, "-I", "-c", _ASK_VERSION], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingError(f"`{python}` cannot be run", why=str(error)[:300], hint=hint) from None
        found = done.stdout.strip()
        if done.returncode or not found:
            what = f"MLflow {found} cannot start in `{python}`" if found else f"`{python}` has no MLflow"
            raise MissingError(what, why=" ".join(done.stderr.strip().splitlines()[-1:])[:300], hint=hint)
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        if not _LEAST <= numbers < (4,):
            raise UnsupportedError(
                f"MLflow {found} is not supported", why="which of its requests may pass is known for 3.17 on", hint=hint
            )
        return found

    def start(self, ground: Ground) -> Start:
        """Return the command of one process: server and database, nothing else.

        Raises:
            UnsupportedError: artifacts are to lie where MLflow cannot write to.
        """
        scheme = ground.artifacts.partition("://")[0] if "://" in ground.artifacts else ""
        if scheme and scheme not in _CLOUD:
            raise UnsupportedError(
                f"MLflow's artifacts cannot be kept at `{scheme}://`",
                why="it takes a folder, s3:// or gs://",
                hint="start without --tracking, or choose another place with --blobs",
            )
        order = {
            "parent": ground.parent,
            "folder": str(ground.folder),
            "store": f"sqlite:///{ground.folder}/mlflow.db",
            "artifacts": ground.artifacts,
            "socket": ground.socket,
        }
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")
        passed = {name: value for name, value in os.environ.items() if name in kept}
        for name, value in os.environ.items():
            if name.startswith(_CLOUD.get(scheme, ("\0",))):
                passed[name] = value
        environment = {
            "TMPDIR": str(ground.folder / "tmp"),
            "DO_NOT_TRACK": "true",
            "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^(mlflow-artifacts|runs|models):/",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
            "MLFLOW_ENABLE_WORKSPACES": "false",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
            "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if "AWS_ENDPOINT_URL" in passed:
            environment["MLFLOW_S3_ENDPOINT_URL"] = passed["AWS_ENDPOINT_URL"]
        return Start((ground.python, "-I", "-c", _LAUNCH, json.dumps(order)), passed | environment)

    def rules(self) -> Sequence[Rule]:
        """Return what may be asked; a request that MLflow adds is refused until it is listed here."""
        return tuple(_rules())

    def page_policy(self, base: str) -> str:
        """Return what MLflow's pages may do: run its own scripts and ask its own paths, nothing else of this origin.

        Scripts come from its static files alone: one that somebody has logged as an artifact is at this origin, too.
        """
        return "; ".join(
            (
                "default-src 'none'",
                f"script-src {base}static-files/",
                f"style-src {base}static-files/ 'unsafe-inline'",
                f"font-src {base}static-files/ data:",
                f"img-src {base} data: blob:",
                f"media-src {base} blob:",
                f"connect-src {base} blob: data:",
                f"worker-src {base}static-files/ blob:",
                f"manifest-src {base}static-files/",
                "frame-src blob:",
                "form-action 'none'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            )
        )

    def refusal(self, path: str, body: Any) -> str:
        """Return why MLflow may not be told this: it would read or write where it was not set to.

        These are places of its own machine (CVE-2023-1177, -2780, CVE-2024-1560, -1593) or of other services.
        """
        if path.endswith("model-versions/create") and isinstance(body, dict):
            source = body.get("source", "")
            if not isinstance(source, str) or not _is_place(source):
                return f"`source` has to be an artifact ({_SCHEME}/, runs:/ or models:/)"
        return _misplaced(body, 0)

    def run_of(self, path: str, query: Mapping[str, str], body: Any) -> str:
        """Return the run, or else the experiment or model, that a request names."""
        told = body if isinstance(body, dict) else {}
        for name, kind in _SUBJECTS.items():
            found = told.get(name) or query.get(name)
            if isinstance(found, str) and found:
                return f"{kind}/{found[:64]}"
        parts = path.split("/")
        named = next((part for part in parts if _RUN.fullmatch(part.removeprefix("m-"))), "")
        if named:
            return f"{'logged-models' if named.startswith('m-') else 'runs'}/{named}"
        found = told.get("name")
        return f"{parts[3]}/{found[:64]}" if isinstance(found, str) and len(parts) > 3 else ""

    def named(self, text: str) -> tuple[str, str] | None:
        """Return what `mlflow:RUN[/PATH]` and MLflow's own `runs:/RUN/PATH` name.

        Raises:
            InvalidError: there is no run id behind the colon.
        """
        scheme, _, rest = text.partition(":")
        if scheme not in ("mlflow", "runs"):
            return None
        run, _, path = rest.lstrip("/").partition("/")
        if not _RUN.fullmatch(run) or any(part in ("", ".", "..") for part in (path.split("/") if path else ())):
            raise InvalidError(
                f"`{text}` names no logged model",
                why="a run id is 32 hexadecimal digits, and the model's name may follow it",
                hint="write `mlflow:RUN_ID`, or `runs:/RUN_ID/model`",
            )
        return run, path

    def find(self, ask: Ask, read: Read, run: str, path: str) -> TrackedModel:
        """Return a logged model, of MLflow 3 or among a run's artifacts as MLflow 2 leaves it.

        Raises:
            MissingError: the run has no such model, or PyYAML is not there to read of it.
            InvalidError: there are several.
            UnsupportedError: no frontend takes it.
        """
        told = ask("api/2.0/mlflow/runs/get", {"run_id": run}).get("run", {})
        facts = _run(run, told)
        name, root = _choose(ask, run, path, told)
        files = {file.path: file for file in _files(ask, root, "", 0)}
        if "MLmodel" not in files:
            raise MissingError(
                f"run {run[:12]} has no model at `{name}`", why="there is no file `MLmodel`", hint="check the path"
            )
        return _model(facts, name, _described(read(files["MLmodel"].where)), files)


# -- requests


def _rules() -> Iterator[Rule]:
    yield Rule("GET", "", "read", "page")
    yield Rule("GET", "static-files/**", "read", "asset")
    yield Rule("GET", "health", "read")
    yield Rule("GET", "version", "read")
    yield Rule("GET", "get-artifact", "read", "file")
    yield Rule("GET", "model-versions/get-artifact", "read", "file")
    yield Rule("GET", "graphql", "closed", why="it is asked by POST")
    yield Rule("POST", "graphql", "read")
    yield Rule("POST", "v1/traces", "write", "bytes")
    yield Rule("*", "build/**", "closed", why=_UNUSED)
    yield Rule("*", "gateway/**", "closed", why=_CALLS)
    yield Rule("*", "ajax-api/3.0/jobs/**", "closed", why=_RUNS)
    yield Rule("*", "ajax-api/3.0/jobs", "closed", why=_RUNS)
    for prefix in ("api", "ajax-api"):
        yield from _artifact_rules(f"{prefix}/2.0/mlflow-artifacts")
        # A slash is missing in MLflow's own table of routes.
        yield Rule("*", f"{prefix}/2.0mlflow/**", "closed", why=_UNUSED)
        for number in ("2.0", "3.0"):
            yield from _api_rules(f"{prefix}/{number}/mlflow")


def _artifact_rules(base: str) -> Iterator[Rule]:
    yield Rule("GET", f"{base}/artifacts", "read")
    yield Rule("GET", f"{base}/artifacts/**", "read", "file")
    yield Rule("PUT", f"{base}/artifacts/**", "write", "bytes")
    yield Rule("DELETE", f"{base}/artifacts/**", "rule")
    yield Rule("*", f"{base}/mpu/**", "closed", why=_LINKS)
    yield Rule("*", f"{base}/presigned/**", "closed", why=_LINKS)


def _api_rules(base: str) -> Iterator[Rule]:
    yield Rule("GET", f"{base}/logged-models/*/artifacts/files", "read", "file")
    yield Rule("GET", f"{base}/get-trace-artifact", "read", "file")
    yield Rule("POST", f"{base}/upload-artifact", "write", "bytes")
    for right, method, paths in _API:
        carries: Carries = "json"
        for path in paths.split():
            yield Rule(method, f"{base}/{path}", right, carries)
    for path, why in _CLOSED.items():
        yield Rule("*", f"{base}/{path}", "closed", why=why)
        yield Rule("*", f"{base}/{path}/**", "closed", why=why)


def _is_place(text: str) -> bool:
    parts = text.partition(":/")[2].split("/")
    return _PLACE.fullmatch(text) is not None and not {".", ".."} & set(parts)


def _misplaced(value: Any, depth: int) -> str:
    """Return which field of a body names a place that is none of the artifacts', at any depth."""
    if depth > 64:
        return "it is nested too deeply"
    if isinstance(value, list):
        return next((why for one in value if (why := _misplaced(one, depth + 1))), "")
    if not isinstance(value, dict):
        return ""
    for name, inner in value.items():
        if name in _LOCATION_KEYS and not (inner == "" or inner is None or _is_artifact(inner)):
            return f"`{name}` may not be given other than as {_SCHEME}/..."
        if _LOCATION_TAG.fullmatch(name) and not _is_tag(inner):
            return f"tag `{name[:80]}` may not be given other than as {_SCHEME}/..."
        if why := _misplaced(inner, depth + 1):
            return why
    key = value.get("key")
    if isinstance(key, str) and _LOCATION_TAG.fullmatch(key) and not _is_tag(value.get("value")):
        return f"tag `{key[:80]}` may not be given other than as {_SCHEME}/..."
    return ""


def _is_artifact(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_SCHEME) and _is_place(value)


def _is_tag(value: Any) -> bool:
    # MLflow says in some tags of this kind which of its own stores holds a thing, in one word.
    return isinstance(value, str) and (_is_artifact(value) or re.fullmatch(r"[A-Z_]{0,40}", value) is not None)


# -- logged models


def _run(run: str, told: Any) -> TrackedRun:
    info, data = told.get("info", {}), told.get("data", {})
    tags = _pairs(data.get("tags"))
    commit = tags.get("mlflow.source.git.commit", "")
    datasets = [one.get("dataset", {}) for one in told.get("inputs", {}).get("dataset_inputs", [])]
    metrics = {name: float(value) for name, value in _pairs(data.get("metrics")).items()}
    return TrackedRun(
        run,
        name=str(info.get("run_name", "")),
        parent=tags.get("mlflow.parentRunId", ""),
        code=f"git:{commit}" if commit else "",
        data=tuple(f"{one.get('name', '')}@{one.get('digest', '')}" for one in datasets[:_MOST_FACTS]),
        params=dict(list(_pairs(data.get("params")).items())[:_MOST_FACTS]),
        metrics=dict(list(metrics.items())[:_MOST_FACTS]),
    )


def _pairs(rows: Any) -> dict[str, str]:
    return {str(row["key"]): str(row.get("value", "")) for row in rows or ()}


def _choose(ask: Ask, run: str, path: str, told: Any) -> tuple[str, str]:
    """Return name and artifact root of the model that is meant."""
    known: dict[str, str] = {}
    for output in told.get("outputs", {}).get("model_outputs", [])[:_MOST_FACTS]:
        model = ask(f"api/2.0/mlflow/logged-models/{quote(output['model_id'], safe='')}", {})
        info = model.get("model", {}).get("info", {})
        known[info.get("name", "")] = info.get("artifact_uri", "")
    if path in known:
        return path, _root(known[path])
    if path:
        return path, _root(f"{told.get('info', {}).get('artifact_uri', '')}/{path}")
    if len(known) == 1:
        return next((name, _root(uri)) for name, uri in known.items())
    if not known:
        raise MissingError(
            f"run {run[:12]} has logged no model",
            why="it has none among its outputs",
            hint=f"name its folder among the run's artifacts: `mlflow:{run}/FOLDER`",
        )
    names = ", ".join(f"`{name}`" for name in list(known)[:8])
    raise InvalidError(
        f"run {run[:12]} has logged {len(known)} models", why=f"they are {names}", hint=f"write `mlflow:{run}/NAME`"
    )


def _root(uri: str) -> str:
    """Return the path of an artifact folder on its server."""
    if not uri.startswith(f"{_SCHEME}/"):
        raise UnsupportedError(
            "the model's files are not on the tracking server",
            why=f"they are at `{uri[:200]}`",
            hint="download them with MLflow's own client, and import the file",
        )
    return uri.removeprefix(_SCHEME).strip("/")


def _files(ask: Ask, root: str, below: str, depth: int) -> Iterator[TrackedFile]:
    listed = ask("api/2.0/mlflow-artifacts/artifacts", {"path": "/".join(filter(None, (root, below)))})
    for count, row in enumerate(listed.get("files", [])):
        name = str(row["path"]).rpartition("/")[2]
        path = f"{below}/{name}".lstrip("/")
        if name in ("", ".", "..") or "\\" in name or "\0" in name or depth >= _MOST_DEPTH or count >= _MOST_FILES:
            raise InvalidError("the model's files cannot be listed", why=f"`{path[:120]!r}` is no name of a file here")
        if row.get("is_dir"):
            yield from _files(ask, root, path, depth + 1)
        else:
            where = f"api/2.0/mlflow-artifacts/artifacts/{quote(f'{root}/{path}')}"
            yield TrackedFile(path, int(row.get("file_size") or 0), where)


def _described(data: bytes) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise MissingError(
            "what MLflow tells of a model cannot be read", why="PyYAML is not installed", hint="pip install pyyaml"
        ) from None
    try:
        found = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidError("the file `MLmodel` is not understood", why=str(error)[:200]) from None
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise InvalidError("the file `MLmodel` is not understood", why="it names no flavours")
    return found


def _model(run: TrackedRun, name: str, told: dict[str, Any], files: Mapping[str, TrackedFile]) -> TrackedModel:
    flavours = told["flavors"]
    for flavour, opened in _OPENED.items():
        if isinstance(flavours.get(flavour), dict):
            path = opened(flavours[flavour], files)
            break
    else:
        raise UnsupportedError(
            f"model `{name}` has no flavour that can be imported",
            why=f"it has {', '.join(sorted(flavours))}; known: {', '.join(_OPENED)}",
            hint="log it as ONNX, too: `mlflow.onnx.log_model`",
        )
    if path not in files:
        raise InvalidError(f"model `{name}` is not whole", why=f"its file `{path}` is not there")
    example = told.get("saved_input_example_info") or {}
    shown = str(example.get("artifact_path", ""))
    return TrackedModel(
        run,
        name,
        flavour,
        tuple(files.values()),
        path,
        is_code=path.endswith((".pkl", ".skops", ".pt2")),
        example=shown if shown in files and example.get("type") in ("ndarray", "dataframe") else "",
        inputs=tuple(_inputs((told.get("signature") or {}).get("inputs"))),
    )


def _onnx(flavour: Mapping[str, Any], files: Mapping[str, TrackedFile]) -> str:
    return str(flavour.get("data", "model.onnx"))


def _pickled(flavour: Mapping[str, Any], files: Mapping[str, TrackedFile]) -> str:
    return str(flavour.get("pickled_model", "model.pkl"))


def _booster(flavour: Mapping[str, Any], files: Mapping[str, TrackedFile]) -> str:
    return str(flavour.get("data", ""))


def _torch(flavour: Mapping[str, Any], files: Mapping[str, TrackedFile]) -> str:
    path = f"{flavour.get('model_data', 'data')}/model.pt2"
    if path not in files:
        raise UnsupportedError(
            "a PyTorch model that was logged as a pickle cannot be imported",
            why="there is no exported program `model.pt2` in it",
            hint="log it with `serialization_format='pt2'`, or as ONNX",
        )
    return path


#: Which file of a model is opened, by flavour; one that is data comes before those that are code.
_OPENED = {"onnx": _onnx, "lightgbm": _booster, "xgboost": _booster, "sklearn": _pickled, "pytorch": _torch}


def _inputs(text: Any) -> Iterator[tuple[str, str]]:
    """Yield name and numpy dtype of every input that a signature tells of."""
    try:
        rows = json.loads(text) if text else []
    except (TypeError, ValueError):
        return
    kinds = {"double": "float64", "float": "float32", "integer": "int32", "long": "int64", "boolean": "bool"}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            dtype = row.get("tensor-spec", {}).get("dtype") or kinds.get(str(row.get("type")), "str")
            yield str(row.get("name", "")), str(dtype)
