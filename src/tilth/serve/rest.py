"""The protocol over REST: routes, credentials and errors; what a request means is for the core."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import orjson

from tilth.bridge.value_file import entries, grouped
from tilth.core.errors import InvalidError, MissingError, TilthError
from tilth.core.host import HostRule
from tilth.ports.arrays import Array, Value
from tilth.serve import rest_infer, rest_rows
from tilth.serve.access import Access, UnauthenticatedError
from tilth.serve.body import packed, unpacked
from tilth.serve.failure import OverloadedError
from tilth.serve.http1 import Call, Reply
from tilth.serve.logs import Log, request_id
from tilth.serve.metadata import model_config, model_metadata
from tilth.serve.openapi import document
from tilth.serve.repository import Repository
from tilth.serve.request import Answer, Request, timeout_s
from tilth.serve.service import Service
from tilth.serve.status import http_status
from tilth.serve.traces import Context, child, header, parse
from tilth.serve.unit import Unit

Handler = Callable[[Call, tuple[str, ...]], Reply | Awaitable[Reply]]
#: Who answers, the scope that it needs, the names in the path, and the model as `Access.check` has it.
Route = tuple[Handler, str, tuple[str, ...], str | None]
_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
_AGAIN = _JSON + b"retry-after: 1\r\n"
#: Scopes that a route may need; the empty one needs no credential.
_OPEN, _INFER, _MANAGE, _METRICS = "", "infer", "manage", "metrics"


class Rest:
    """The application behind an HTTP door. `scopes` are the ones that this port offers; others have no routes."""

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
        self._memo: dict[tuple[str, str], Route] = {}

    # -- every call

    def admit(self, call: Call) -> Reply | None:
        """Return a refusal when the host, the path or the credential of a request is not taken."""
        call.began_ns = time.perf_counter_ns()
        headers = call.headers
        try:
            refusal = self._hosts.refusal(headers.get("host"), headers.get("origin"))
            if refusal:
                raise _misdirected(refusal)
            route = self._memo.get((call.method, call.target)) or self._route(call.method, call.target)
            if route[1] and not self._access.open:
                self._access.check(headers.get("authorization"), route[1], route[3])
            call.route = route
        except TilthError as error:
            return self.refused(error, call)
        except Exception as error:
            return self._fault(error, call)
        return None

    def answer(self, call: Call) -> Reply | Awaitable[Reply]:
        """Answer a request that was admitted, at once where nothing has to be waited for."""
        headers = call.headers
        try:
            handler, scope, names, model = call.route
            if scope and self._access.taken_ns > call.began_ns:
                # Its body, or those before it, took so long that the credential may be good no more.
                self._access.check(headers.get("authorization"), scope, model)
            encoding = headers.get("content-encoding")
            if encoding and encoding != "identity":
                call.body = unpacked(call.body, encoding, self._service.limits.body_bytes)
            made = handler(call, names)
        except TilthError as error:
            return self.refused(error, call)
        except Exception as error:
            return self._fault(error, call)
        if type(made) is not tuple:
            return self._waited(call, made)
        bare = "accept-encoding" not in headers and "traceparent" not in headers and not self._log.access
        return made if bare else self._finished(call, made)

    async def _waited(self, call: Call, made: Awaitable[Reply]) -> Reply:
        try:
            reply = await made
        except TilthError as error:
            return self.refused(error, call)
        except Exception as error:
            return self._fault(error, call)
        return self._finished(call, reply)

    def refused(self, error: TilthError, call: Call | None) -> Reply:
        """Return the answer that an error is told by."""
        given_id = request_id(call.headers.get("x-request-id") if call is not None else None)
        return self._finished(call, _told(error, given_id), error.what, given_id)

    def _fault(self, error: Exception, call: Call) -> Reply:
        """Answer a fault of ours: the client learns that it was one, and the log the rest."""
        given_id = request_id(call.headers.get("x-request-id"))
        self._log.write("error", "fault", id=given_id, error=f"{type(error).__name__}: {error}"[:2000])
        reply = 500, _JSON, _problem("the server failed", "the log says why", given_id)
        return self._finished(call, reply, "fault", given_id)

    def _finished(self, call: Call | None, reply: Reply, error: str = "", given_id: str = "") -> Reply:
        """Pack the answer, and leave a span and a line in the log, where they are wanted."""
        if call is None:
            self._log.request(given_id, "", "", "", reply[0], 0.0, 0, len(reply[2]), "", error)
            return reply
        status, lines, body = reply
        accepted = call.headers.get("accept-encoding")
        if body and accepted and accepted != "identity":
            body, encoding = packed(body, accepted)
            if encoding:
                lines += _line("content-encoding", encoding)
        context = _context(call.headers)
        if context is not None:
            lines += _line("traceparent", header(context))
            took_ns, now_ns = time.perf_counter_ns() - call.began_ns, time.time_ns()
            self._tracer.span(f"{call.method} {call.target}", context, {}, now_ns - took_ns, now_ns, error)
        if error or self._log.access:
            self._note(call, given_id, status, len(body), error)
        return status, lines, body

    def _note(self, call: Call, given_id: str, status: int, size: int, error: str) -> None:
        model, version = (*(call.route[2] if call.route else ()), "", "")[:2]
        given_id = given_id or request_id(call.headers.get("x-request-id"))
        ms = (time.perf_counter_ns() - call.began_ns) / 1e6
        told = f"{call.method} {call.target}"[:200]
        self._log.request(given_id, told, model, version, status, ms, len(call.body), size, call.client, error)

    # -- routes

    def _route(self, method: str, path: str) -> Route:
        parts = tuple(path.split("/")[1:])
        found = self._matched(parts)
        if found is None or (found[0][1] and found[0][1] not in self._scopes):
            raise MissingError(f"there is no `{path[:200]}`", hint="GET /openapi.json lists all there is")
        (methods, scope, handler), names = found
        if method not in methods:
            raise _not_allowed(method, path, methods)
        # What the server itself is says nothing of its models; every other route without a name is about all of them.
        route = (handler, scope, names, None if handler == self._server else names[0] if names else "")
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
            return (method, _INFER, self._shared_memory), ()
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

    def _infer(self, call: Call, names: tuple[str, ...]) -> Reply | Awaitable[Reply]:
        headers = call.headers
        unit = self._service.unit(*names)
        document, inputs = rest_infer.parse(call.body, headers.get(rest_infer.JSON_LENGTH), self._service.limits)
        request = rest_infer.request_of(names[0], names[1], document, inputs)
        form = rest_infer.forms(document)
        request.until = _until(headers.get("timeout"), request)
        if not unit.plain:
            request.inputs = grouped(request.inputs)  # type: ignore[assignment]
        if unit.model is None:
            return self._later(request, unit, form)
        return _rendered(self._service.infer_now(request, unit, unit.model), unit, form)

    async def _later(self, request: Request, unit: Unit, form: rest_infer.Forms) -> Reply:
        return _rendered(await self._service.infer(request, unit), unit, form)

    def _predict(self, call: Call, names: tuple[str, ...]) -> Reply | Awaitable[Reply]:
        try:
            given = orjson.loads(call.body)
        except orjson.JSONDecodeError as error:
            raise InvalidError("the body is not JSON", why=str(error)[:200]) from None
        unit = self._service.unit(*names)
        inputs = rest_rows.inputs_of(given, unit.facts.signature)
        request = Request(names[0], inputs, unit.version if names[1] else "")
        request.until = _until(call.headers.get("timeout"), request)
        if unit.model is None:
            return self._predict_later(request, unit)
        return _predictions(self._service.infer_now(request, unit, unit.model), unit)

    async def _predict_later(self, request: Request, unit: Unit) -> Reply:
        return _predictions(await self._service.infer(request, unit), unit)

    # -- what there is

    def _live(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, b'{"live":true}'

    def _ready(self, call: Call, names: tuple[str, ...]) -> Reply:
        if self._service.is_ready():
            return 200, _JSON, b'{"ready":true}'
        told = {name: served.reasons for name, served in self._service.models.items() if served.reasons}
        # It is asked without a credential, and names are not for everyone.
        reasons = {"reasons": told} if self._access.open else {}
        return 503, _AGAIN, orjson.dumps({"ready": False, **reasons})

    def _server(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(self._service.metadata())

    def _model(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(model_metadata(self._service, *names))

    def _model_ready(self, call: Call, names: tuple[str, ...]) -> Reply:
        served = self._service.served(names[0])
        if self._service.is_model_ready(*names):
            return 200, _JSON, orjson.dumps({"name": names[0], "ready": True})
        if names[1] and names[1] not in served.reasons:
            self._service.unit(*names)
        told = {"name": names[0], "ready": False, "reasons": served.reasons}
        return 503, _AGAIN, orjson.dumps(told)

    def _config(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(model_config(self._service, *names))

    def _stats(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, orjson.dumps(self._repository.statistics(*names))

    def _metrics(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _TEXT, self._repository.prometheus().encode()

    def _openapi(self, call: Call, names: tuple[str, ...]) -> Reply:
        return 200, _JSON, document(self._scopes, sorted(self._service.models) if self._access.open else ())

    # -- the repository and settings

    def _index(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = _object(call) if call.method == "POST" else {}
        return 200, _JSON, orjson.dumps(self._repository.index(asked.get("ready") is True))

    async def _load(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = _object(call)
        parameters = asked.get("parameters") or {}
        if type(parameters) is not dict:
            raise InvalidError("`parameters` is not an object", hint='send {"parameters": {"config": "..."}}')
        await self._repository.load(names[0], parameters)
        return 200, _JSON, b"{}"

    async def _unload(self, call: Call, names: tuple[str, ...]) -> Reply:
        _object(call)
        await self._repository.unload(names[0])
        return 200, _JSON, b"{}"

    async def _logging(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = _object(call) if call.method == "POST" else {}
        return 200, _JSON, orjson.dumps(await self._repository.logging(asked))

    def _tracing(self, call: Call, names: tuple[str, ...]) -> Reply:
        asked = _object(call) if call.method == "POST" else {}
        return 200, _JSON, orjson.dumps(self._repository.tracing(asked))

    def _shared_memory(self, call: Call, names: tuple[str, ...]) -> Reply:
        verb = call.target.rpartition("/")[2]
        if verb == "status":
            return 200, _JSON, b"[]"
        if verb == "unregister":
            return 200, _JSON, b"{}"
        raise rest_infer.no_shared_memory()


def _object(call: Call) -> dict[str, Any]:
    return rest_infer.loads(call.body) if call.body else {}


def _rendered(answer: Answer, unit: Unit, form: rest_infer.Forms) -> Reply:
    outputs: Any = answer.outputs if unit.plain else arrays_of(answer.outputs)
    made, json_size = rest_infer.render(answer.model, answer.version, answer.id, outputs, *form)
    return (200, _BINARY % json_size, made) if json_size else (200, _JSON, made)


def _predictions(answer: Answer, unit: Unit) -> Reply:
    rows = rest_rows.predictions(answer.outputs, unit.facts.signature)
    return 200, _JSON, orjson.dumps({"predictions": rows, "model_version": answer.version})


def arrays_of(outputs: Mapping[str, Value]) -> dict[str, Array]:
    """Return outputs as tensors: members of a sequence under names of their own, absent ones left out."""
    for value in outputs.values():
        if not isinstance(value, np.ndarray):
            return {name: np.asarray(array) for name, array in entries(outputs)}
    return outputs  # type: ignore[return-value]


def _name(part: str) -> str:
    # The path is decoded; what is left of an escape after that is a name that nobody has.
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


def _context(headers: Mapping[str, str]) -> Context | None:
    given = headers.get("traceparent")
    context = parse(given) if given else None
    return None if context is None else child(context)


def _told(error: TilthError, given_id: str) -> Reply:
    lines = _JSON + _line("x-request-id", given_id)
    status = http_status(error)
    if isinstance(error, OverloadedError):
        lines += _line("retry-after", str(error.retry_after_s))
    elif status == 503:
        lines += _line("retry-after", "1")
    elif isinstance(error, UnauthenticatedError):
        lines += _line("www-authenticate", "Bearer")
    elif isinstance(error, NotAllowedError):
        status = 405
        lines += _line("allow", ", ".join(error.methods))
    return status, lines, _problem(str(error), "", given_id, error)


def _line(name: str, value: str) -> bytes:
    """Return a header line; none of the values is a client's own words."""
    return f"{name}: {value}\r\n".encode("ascii")


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
