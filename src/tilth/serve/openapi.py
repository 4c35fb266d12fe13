"""The REST interface as an OpenAPI 3.1 document; pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tilth.core.version import VERSION

_JSON = "application/json"
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 128}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 128}}
_ERROR = {
    "type": "object",
    "required": ["error", "id"],
    "properties": {key: {"type": "string"} for key in ("error", "id", "what", "why", "hint")},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "examples": ["FP32"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        },
    },
}
_ROWS = {"type": "object", "required": ["instances"], "properties": {"instances": {"type": "array", "items": {}}}}
_LOAD = {"type": "object", "properties": {"parameters": {"type": "object"}}}
#: Path, method, scope, what it does, its body.
_ROUTES: tuple[tuple[str, str, str, str, Mapping[str, Any] | None], ...] = (
    ("/v2/health/live", "get", "", "whether the server lives", None),
    ("/v2/health/ready", "get", "", "whether every model that is wanted answers", None),
    ("/v2", "get", "infer", "the server's name, version and extensions", None),
    ("/v2/models/{name}", "get", "infer", "a model's inputs and outputs", None),
    ("/v2/models/{name}/versions/{version}", "get", "infer", "a version's inputs and outputs", None),
    ("/v2/models/{name}/ready", "get", "", "whether a model answers", None),
    ("/v2/models/{name}/config", "get", "infer", "a model's configuration", None),
    ("/v2/models/{name}/stats", "get", "infer", "a model's statistics", None),
    ("/v2/models/stats", "get", "infer", "the statistics of all models", None),
    ("/v2/models/{name}/infer", "post", "infer", "ask a model", _INFER),
    ("/v2/models/{name}/versions/{version}/infer", "post", "infer", "ask a version", _INFER),
    ("/v1/models/{name}:predict", "post", "infer", "ask a model with plain rows", _ROWS),
    ("/v2/repository/index", "post", "manage", "every version that is known", {"type": "object"}),
    ("/v2/repository/models/{name}/load", "post", "manage", "load a model, or load it anew", _LOAD),
    ("/v2/repository/models/{name}/unload", "post", "manage", "unload a model", {"type": "object"}),
    ("/v2/logging", "get", "manage", "the log settings", None),
    ("/metrics", "get", "metrics", "metrics in the Prometheus text form", None),
)
_STATUSES = {
    "400": "the request is wrong",
    "401": "no credential, or one that is not accepted",
    "403": "the credential lacks the scope",
    "404": "there is no such model, version or path",
    "405": "the path does not take this method",
    "413": "the request is too large",
    "422": "it is refused, or not offered here",
    "503": "not at this time; Retry-After says when",
    "504": "the deadline passed",
}


def document(scopes: frozenset[str], models: Sequence[str] = ()) -> bytes:
    """Return the document for a port that offers these scopes, as JSON; names of `models` stand in it as examples."""
    paths: dict[str, dict[str, Any]] = {}
    for path, method, scope, about, body in _ROUTES:
        if not scope or scope in scopes:
            paths.setdefault(path, {})[method] = _operation(path, scope, about, body)
            if models and "{name}" in path:
                named = {**_NAME, "example": models[0]}
                others = [one for one in paths[path][method]["parameters"] if one["name"] != "name"]
                paths[path][method]["parameters"] = [named, *others]
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Tilth data plane", "version": VERSION, "description": "Open Inference Protocol v2."},
            "paths": paths,
            "components": {
                "schemas": {"Error": _ERROR},
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(path: str, scope: str, about: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    error = {"content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    kind = "text/plain" if path == "/metrics" else _JSON
    made: dict[str, Any] = {
        "summary": about,
        "parameters": [one for one in (_NAME, _VERSION) if "{" + str(one["name"]) + "}" in path],
        "responses": {
            "200": {"description": "done", "content": {kind: {"schema": {}}}},
            **{status: {"description": why, **error} for status, why in _STATUSES.items()},
        },
    }
    if "ready" in path:
        made["responses"]["503"] = {"description": "not ready", "content": {_JSON: {"schema": {"type": "object"}}}}
    if scope:
        made["security"] = [{"token": [scope]}]
    if body is not None:
        made["requestBody"] = {"required": method_needs_body(path), "content": {_JSON: {"schema": body}}}
    return made


def method_needs_body(path: str) -> bool:
    """Return whether a POST to this path needs a body."""
    return path.endswith(("/infer", ":predict"))
