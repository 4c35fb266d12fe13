"""The protocol over REST: routes, credentials and errors; what a request means is for the core."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tilth.bridge.value_file import entries, grouped
from tilth.core.errors import InvalidError, MissingError, TilthError
from tilth.ports.arrays import Array, Value
from tilth.serve import rest_infer, rest_rows
from tilth.serve.access import Access, UnauthenticatedError
from tilth.serve.body import Bodies, packed
from tilth.serve.failure import DeadlineError, OverloadedError
from tilth.serve.host import HostRule
from tilth.serve.logs import Log, request_id
from tilth.serve.metadata import model_config, model_metadata
from tilth.serve.openapi import document
from tilth.serve.repository import Repository
from tilth.serve.request import Request, timeout_s
from tilth.serve.service import Service
from tilth.serve.status import http_status
from tilth.serve.traces import Context, child, header, parse

Headers = list[tuple[str, str]]
Reply = tuple[int, Headers, bytes]
Handler = Callable[["Call", tuple[str, ...]], Awaitable[Reply]]
_JSON: Headers = [("content-type", "application/json")]
_TEXT: Headers = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
_MOST_PATH = 2048
#: Scopes that a route may need; the empty one needs no credential.
_OPEN, _INFER, _MANAGE, _METRICS = "", "infer", "manage", "metrics"


#: Headers that say who asks, and for whom; two of one would let two readers see two requests.
_SINGLE = ("host", "origin", "authorization", "content-length", rest_infer.JSON_LENGTH)


@dataclass(slots=True)
class Call:
    """What a handler needs of one HTTP request: the method, the headers by lower-case name, and granian's protocol."""

    method: str
    headers: dict[str, str]
    proto: Any


class Rest:
    """An RSGI application. `scopes` are the ones that this port offers; routes of others are not there."""

    def __init__(
        self,
        service: Service,
        repository: Repository,
        access: Access,
        hosts: HostRule,
        log: Log,
        tracer: Any,
        scopes: frozenset[str] = frozenset((_INFER, _MANAGE, _METRICS)),
    ) -> None:
        self._service, self._repository, self._access = service, repository, access
        self._hosts, self._log, self._tracer, self._scopes = hosts, log, tracer, scopes
        self.bodies = Bodies(service.limits)
        self._memo: dict[tuple[str, str], tuple[Handler, str, tuple[str, ...]]] = {}

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """Answer one request; nothing that it holds can raise beyond this."""
        # All at once: each look-up in granian's own would cross into Rust.
        pairs = scope.headers.items()
        headers, began = dict(pairs), time.perf_counter_ns()
        context, given_id = None, ""
        try:
            if len(headers) != len(pairs):
                _check_single(pairs)
            refusal = self._hosts.refusal(headers.get("host") or scope.authority, headers.get("origin"))
            if refusal:
                raise _misdirected(refusal)
            route = self._memo.get((scope.method, scope.path)) or self._route(scope.method, scope.path)
            if route[1] and not self._access.open:
                self._access.check(headers.get("authorization"), route[1])
            context = _context(headers)
            status, head, body = await route[0](Call(scope.method, headers, proto), route[2])
            error = ""
        except TilthError as failure:
            given_id = request_id(headers.get("x-request-id"))
            status, head, body = _told(failure, given_id)
            error = failure.what
        except Exception as failure:  # a fault of ours: the client learns that, and the log the rest
            given_id = request_id(headers.get("x-request-id"))
            self._log.write("error", "fault", id=given_id, error=f"{type(failure).__name__}: {failure}"[:2000])
            status, head, body, error = 500, _JSON, _problem("the server failed", "the log says why", given_id), "fault"
        if body and (accepted := headers.get("accept-encoding")) and accepted != "identity":
            body, encoding = packed(body, accepted)
            if encoding:
                head = [*head, ("content-encoding", encoding)]
        if context is not None:
            head = [*head, ("traceparent", header(context))]
            took_ns, now_ns = time.perf_counter_ns() - began, time.time_ns()
            self._tracer.span(f"{scope.method} {scope.path}", context, {}, now_ns - took_ns, now_ns, error)
        if error or self._log.access:
            self._note(scope, given_id, status, began, len(body), error)
        proto.response_bytes(status, head, body)

    def _note(self, scope: Any, given_id: str, status: int, began: int, size: int, error: str) -> None:
        names = self._memo[scope.method, scope.path][2] if (scope.method, scope.path) in self._memo else ()
        model, version = (*names, "", "")[:2]
        headers = scope.headers
        given_id = given_id or request_id(headers.get("x-request-id"))
        length = headers.get("content-length") or "0"
        taken = int(length) if length.isdecimal() and len(length) < 16 else 0
        ms = (time.perf_counter_ns() - began) / 1e6
        call = f"{scope.method} {scope.path}"[:200]
        self._log.request(given_id, call, model, version, status, ms, taken, size, scope.client, error)

    # -- routes

    def _route(self, method: str, path: str) -> tuple[Handler, str, tuple[str, ...]]:
        if len(path) > _MOST_PATH:
            raise InvalidError("the path is too long", why=f"at most {_MOST_PATH} characters are read")
        parts = tuple(path.split("/")[1:])
        found = self._matched(parts)
        if found is None or (found[0][1] and found[0][1] not in self._scopes):
            raise MissingError(f"there is no `{path[:200]}`", hint="GET /openapi.json lists all there is")
        (methods, scope, handler), names = found
        if method not in methods:
            raise _not_allowed(method, path, methods)
        route = (handler, scope, names)
        if len(self._memo) > 4096:
            self._memo.clear()
        self._memo[method, path] = route
        return route

    def _matched(self, parts: tuple[str, ...]) -> tuple[tuple[str, str, Handler], tuple[str, ...]] | None:
        fixed = self._fixed().get("/".join(parts))
        if fixed is not None:
            return fixed, ()
        if parts[:2] == ("v1", "models"):
            return self._rows_route(parts[2:])
        if parts[:3] == ("v2", "repository", "models") and len(parts) == 5 and parts[4] in ("load", "unload"):
            handler = self._load if parts[4] == "load" else self._unload
            return ("POST", _MANAGE, handler), (_name(parts[3]),)
        if parts[:2] == ("v2", "models") and len(parts) > 2:
            return self._model_route(parts[2:])
        if parts[:1] == ("v2",) and parts[1:2] and parts[1].endswith("sharedmemory"):
            method = "GET" if parts[-1] == "status" else "POST"
            return (method, _INFER, self._shared_memory), parts[-1:]
        return None

    def _fixed(self) -> Mapping[str, tuple[str, str, Handler]]:
        return {
            "v2": ("GET", _INFER, self._server),
            "v2/": ("GET", _INFER, self._server),
            "v2/health/live": ("GET HEAD", _OPEN, self._live),
            "v2/health/ready": ("GET HEAD", _OPEN, self._ready),
            "v2/models/stats": ("GET", _INFER, self._stats),
            "v2/repository/index": ("POST GET", _MANAGE, self._index),
            "v2/logging": ("GET POST", _MANAGE, self._logging),
            "v2/trace/setting": ("GET POST", _MANAGE, self._tracing),
            "metrics": ("GET", _METRICS, self._metrics),
            "openapi.json": ("GET", _OPEN, self._openapi),
        }

    def _model_route(self, parts: tuple[str, ...]) -> tuple[tuple[str, str, Handler], tuple[str, ...]] | None:
        name, version, rest = _name(parts[0]), "", parts[1:]
        if rest[:1] == ("versions",) and len(rest) > 1:
            version, rest = _name(rest[1]), rest[2:]
        found = {
            (): ("GET", _INFER, self._model),
            ("ready",): ("GET HEAD", _OPEN, self._model_ready),
            ("infer",): ("POST", _INFER, self._infer),
            ("config",): ("GET", _INFER, self._config),
            ("stats",): ("GET", _INFER, self._stats),
            ("trace", "setting"): ("GET POST", _MANAGE, self._tracing),
        }.get(rest)
        return None if found is None else (found, (name, version))

    def _rows_route(self, parts: tuple[str, ...]) -> tuple[tuple[str, str, Handler], tuple[str, ...]] | None:
        path, _, verb = "/".join(parts).rpartition(":")
        split = path.split("/")
        if verb != "predict" or len(split) not in (1, 3) or (len(split) == 3 and split[1] != "versions"):
            return None
        version = _name(split[2]) if len(split) == 3 else ""
        return ("POST", _INFER, self._predict), (_name(split[0]), version)

    # -- inference

    async def _infer(self, call: Call, names: tuple[str, ...]) -> Reply:
        headers = call.headers
        body = await self.bodies.read(call.headers, call.proto)
        unit = self._service.unit(*names)
        document, inputs = rest_infer.parse(body, headers.get(rest_infer.JSON_LENGTH), self._service.limits)
        request = rest_infer.request_of(names[0], names[1], document, inputs)
        default, asked = rest_infer.forms(document)
        request.until = _until(headers.get("timeout"), request)
        if not unit.plain:
            request.inputs = grouped(request.inputs)  # type: ignore[assignment]
        answer = await self._service.infer(request, unit)
        outputs: Any = answer.outputs if unit.plain else arrays_of(answer.outputs)
        made, json_size = rest_infer.render(answer.model, answer.version, answer.id, outputs, default, asked)
        if not json_size:
            return 200, _JSON, made
        head = [("content-type", "application/octet-stream"), (rest_infer.JSON_LENGTH, str(json_size))]
        return 200, head, made

    async def _predict(self, call: Call, names: tuple[str, ...]) -> Reply:
        body = await self.bodies.read(call.headers, call.proto)
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidError("the body is not JSON", why=str(error)[:200]) from None
        unit = self._service.unit(*names)
        signature = unit.facts.signature
        inputs = rest_rows.inputs_of(given, signature)
        request = Request(names[0], inputs, unit.version if names[1] else "")
        request.until = _until(call.headers.get("timeout"), request)
        answer = await self._service.infer(request, unit)
        told = {"predictions": rest_rows.predictions(answer.outputs, signature), "model_version": answer.version}
        return 200, _JSON, orjson.dumps(told)

    # -- what there is

    async def _live(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, b'{"live":true}'

    async def _ready(self, call: Call, names: tuple[str, ...]) -> Reply:
        if self._service.is_ready():
            return 200, _JSON, b'{"ready":true}'
        told = {name: served.reasons for name, served in self._service.models.items() if served.reasons}
        return 503, [*_JSON, ("retry-after", "1")], orjson.dumps({"ready": False, "reasons": told})

    async def _server(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(self._service.metadata())

    async def _model(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(model_metadata(self._service, *names))

    async def _model_ready(self, call: Call, names: tuple[str, ...]) -> Reply:
        served = self._service.served(names[0])
        if self._service.is_model_ready(*names):
            return 200, _JSON, orjson.dumps({"name": names[0], "ready": True})
        if names[1] and names[1] not in served.reasons:
            self._service.unit(*names)
        told = {"name": names[0], "ready": False, "reasons": served.reasons}
        return 503, [*_JSON, ("retry-after", "1")], orjson.dumps(told)

    async def _config(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(model_config(self._service, *names))

    async def _stats(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(self._repository.statistics(*names))

    async def _metrics(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _TEXT, self._repository.prometheus().encode()

    async def _openapi(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, document(self._scopes, sorted(self._service.models) if self._access.open else ())

    # -- the repository and settings

    async def _index(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = await self._object(call) if call.method == "POST" else {}
        return 200, _JSON, orjson.dumps(self._repository.index(asked.get("ready") is True))

    async def _load(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = await self._object(call)
        parameters = asked.get("parameters") or {}
        if type(parameters) is not dict:
            raise InvalidError("`parameters` is not an object", hint='send {"parameters": {"config": "..."}}')
        await self._repository.load(names[0], parameters)
        return 200, _JSON, b"{}"

    async def _unload(self, call: Call, names: tuple[str, ...]) -> Reply:
        await self._object(call)
        await self._repository.unload(names[0])
        return 200, _JSON, b"{}"

    async def _logging(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = await self._object(call) if call.method == "POST" else {}
        return 200, _JSON, orjson.dumps(await self._repository.logging(asked))

    async def _tracing(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = await self._object(call) if call.method == "POST" else {}
        return 200, _JSON, orjson.dumps(self._repository.tracing(asked))

    async def _shared_memory(self, call: Call, names: tuple[str, ...]) -> Reply:
        if names[-1] == "status":
            return 200, _JSON, b"[]"
        if names[-1] == "unregister":
            return 200, _JSON, b"{}"
        raise rest_infer.no_shared_memory()

    async def _object(self, call: Call) -> dict[str, Any]:
        body = await self.bodies.read(call.headers, call.proto)
        return rest_infer.loads(body) if body else {}


def arrays_of(outputs: Mapping[str, Value]) -> dict[str, Array]:
    """Return outputs as tensors: members of a sequence under names of their own, absent ones left out."""
    for value in outputs.values():
        if not isinstance(value, np.ndarray):
            return {name: np.asarray(array) for name, array in entries(outputs)}
    return outputs  # type: ignore[return-value]


def _check_single(pairs: list[tuple[str, str]]) -> None:
    names = [name for name, _ in pairs]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise InvalidError(f"the header `{name}` is there twice", hint="send it once")


def _name(part: str) -> str:
    # granian has decoded the path; what is left of an escape after that is a name that nobody has.
    return part


def _until(given: str | None, request: Request) -> float:
    """Return the deadline of a request: the `timeout` header or parameter, whichever is sooner; 0 for none."""
    if not given and "timeout" not in request.parameters:
        return 0.0
    asked = [seconds for seconds in (_seconds(given) if given else 0.0, timeout_s(request.parameters)) if seconds]
    return time.monotonic() + min(asked) if asked else 0.0


def _seconds(text: str) -> float:
    """Return the seconds that a `timeout` header says: `2`, `0.5s` or `250ms`."""
    number, unit = text.strip(), 1.0
    if number.endswith("ms"):
        number, unit = number[:-2], 1e-3
    elif number.endswith("s"):
        number = number[:-1]
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise InvalidError(
            "the `timeout` header is no duration", why=f"it is {text[:40]!r}", hint="send `250ms` or `2s`"
        )
    return seconds or 1e-9


def _context(headers: Any) -> Context | None:
    given = headers.get("traceparent")
    context = parse(given) if given else None
    return None if context is None else child(context)


def _told(error: TilthError, given_id: str) -> Reply:
    head = [*_JSON, ("x-request-id", given_id)]
    status = http_status(error)
    if isinstance(error, OverloadedError):
        head.append(("retry-after", str(error.retry_after_s)))
    elif status == 503:
        head.append(("retry-after", "1"))
    elif isinstance(error, UnauthenticatedError):
        head.append(("www-authenticate", "Bearer"))
    elif isinstance(error, NotAllowedError):
        status = 405
        head.append(("allow", ", ".join(error.methods)))
    elif isinstance(error, DeadlineError):
        head.append(("connection", "close"))
    return status, head, _problem(str(error), "", given_id, error)


def _problem(text: str, why: str, given_id: str, error: TilthError | None = None) -> bytes:
    told = {"error": text, "id": given_id}
    told |= {"what": error.what, "why": error.why, "hint": error.hint} if error else {"why": why}
    return orjson.dumps(told)


class NotAllowedError(InvalidError):
    """A path that is there, asked with a method that it does not take."""

    def __init__(self, what: str, methods: tuple[str, ...]) -> None:
        super().__init__(what, why="it takes " + ", ".join(methods))
        self.methods = methods


def _not_allowed(method: str, path: str, methods: str) -> NotAllowedError:
    return NotAllowedError(f"`{path[:200]}` does not take {method[:20]}", tuple(methods.split()))


def _misdirected(refusal: str) -> TilthError:
    return InvalidError(
        "the request is not for this server", why=refusal, hint="see `--allow-host` and `--allow-origin`"
    )
