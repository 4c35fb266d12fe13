"""The protocol over gRPC: calls, credentials and errors; what a request means is for the core."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from tilth.bridge.value_file import grouped
from tilth.core.errors import TilthError
from tilth.serve import grpc_infer
from tilth.serve.access import Access, UnauthenticatedError
from tilth.serve.failure import OverloadedError
from tilth.serve.grpc_messages import CALLS, SERVICE, messages
from tilth.serve.limits import Limits
from tilth.serve.logs import Log, request_id
from tilth.serve.metadata import model_config, model_metadata
from tilth.serve.repository import Repository
from tilth.serve.request import timeout_s
from tilth.serve.rest import arrays_of
from tilth.serve.rest_infer import no_shared_memory
from tilth.serve.service import Service
from tilth.serve.status import grpc_status, http_status
from tilth.serve.traces import Context, child, header, parse

Call = Callable[[Any, Any], Awaitable[Any]]
#: Numbers of Triton's `DataType`, in which its configuration tells datatypes.
_TYPES = ("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_TYPE_NUMBERS = {
    f"TYPE_{name}": number for number, name in enumerate((*_TYPES, "FP16", "FP32", "FP64", "STRING", "BF16"))
}
_OPEN = frozenset({"ServerLive", "ServerReady", "ModelReady"})
_MANAGE = frozenset({"RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"})
#: Where a message has the name of the model that it is about; a call that is not here is about all of them.
_MODEL = {
    "ModelInfer": "model_name",
    **dict.fromkeys(("ModelMetadata", "ModelConfig", "ModelStatistics"), "name"),
}
#: Calls that are about no model.
_NO_MODEL = frozenset({"ServerMetadata"})


def options(limits: Limits) -> list[tuple[str, int]]:
    """Return the channel options that keep a gRPC server within limits.

    Source: gRPC's `grpc_types.h`; sizes in bytes, times in milliseconds.
    """
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.max_concurrent_streams", limits.queue),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", int(limits.header_s * 1e3)),
    ]


class Rpc:
    """The handlers of every call. `manage` False leaves out the repository and the settings."""

    def __init__(
        self,
        service: Service,
        repository: Repository,
        access: Access,
        log: Log,
        tracer: Any,
        *,
        manage: bool = True,
    ) -> None:
        self._service, self._repository, self._access = service, repository, access
        self._log, self._tracer, self._manage = log, tracer, manage
        self._made = messages()
        self._response = self._made["ModelInferResponse"]

    def handlers(self) -> Any:
        """Return the handlers for `grpc.aio.Server.add_generic_rpc_handlers`."""
        import grpc

        methods = {}
        for name, taken, given in CALLS:
            if name in _MANAGE and not self._manage:
                continue
            call = self._guarded(name, getattr(self, f"_{_snake(name)}"))
            methods[name] = grpc.unary_unary_rpc_method_handler(
                call, self._made[taken].FromString, self._made[given].SerializeToString
            )
        stream = self._made["ModelStreamInferResponse"].SerializeToString
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, self._made["ModelInferRequest"].FromString, stream
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    # -- inference

    async def _model_infer(self, message: Any, context: Any) -> Any:
        return await self._answered(message, context.time_remaining())

    async def _answered(self, message: Any, remaining_s: float | None) -> Any:
        request = grpc_infer.request_of(message, self._service.limits)
        counts = grpc_infer.classes(message)
        waits = [seconds for seconds in (remaining_s or 0.0, timeout_s(request.parameters)) if seconds > 0]
        if waits:
            request.until = time.monotonic() + min(waits)
        unit = self._service.unit(request.model, request.version)
        if not unit.plain:
            request.inputs = grouped(request.inputs)  # type: ignore[assignment]
        answer = await self._service.infer(request, unit)
        response = self._response(model_name=answer.model, model_version=answer.version, id=answer.id)
        outputs: Any = answer.outputs if unit.plain else arrays_of(answer.outputs)
        grpc_infer.fill(response, outputs, counts)
        return response

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer each request of a stream in turn; an error is one answer and the stream goes on.

        A credential that is not accepted any more ends it.
        """
        made = self._made["ModelStreamInferResponse"]
        metadata = dict(context.invocation_metadata())
        try:
            self._admit(metadata, "infer", None)
        except TilthError as error:
            await self._ended("ModelStreamInfer", None, context, metadata, None, None, time.perf_counter_ns(), error)
        async for message in requests:
            began, answer, failure = time.perf_counter_ns(), None, None
            try:
                self._admit(metadata, "infer", message.model_name)
                answer = await self._answered(message, context.time_remaining())
            except TilthError as error:
                failure = error
            except Exception as error:
                failure = self._fault(error)
            if isinstance(failure, UnauthenticatedError):
                await self._ended("ModelStreamInfer", message, context, metadata, None, None, began, failure)
            if failure is not None or self._log.access:
                self._note("ModelStreamInfer", message, context, request_id(message.id), answer, began, failure)
            # Who asked is told by the id, since the stream carries answers to many.
            yield made(
                error_message=str(failure or ""),
                infer_response=self._response(id=message.id) if answer is None else answer,
            )

    # -- every call

    def _guarded(self, name: str, call: Call) -> Call:
        """Return a handler that checks credentials, tells errors as such, and leaves a trace and a line in the log."""
        scope = "" if name in _OPEN else "manage" if name in _MANAGE else "infer"
        field, about = _MODEL.get(name), None if name in _NO_MODEL else ""

        async def guarded(message: Any, context: Any) -> Any:
            began, answer, failure, span = time.perf_counter_ns(), None, None, None
            metadata = dict(context.invocation_metadata())
            try:
                if scope:
                    self._admit(metadata, scope, getattr(message, field) if field else about)
                given = metadata.get("traceparent")
                if given and (caller := parse(_text(given))):
                    span = child(caller)
                answer = await call(message, context)
            except TilthError as error:
                failure = error
            except Exception as error:
                failure = self._fault(error)
            if failure is not None or span is not None or self._log.access:
                await self._ended(name, message, context, metadata, answer, span, began, failure)
            return answer

        return guarded

    def _admit(self, metadata: Mapping[str, Any], scope: str, model: str | None) -> None:
        if not self._access.open:
            self._access.check(_text(metadata.get("authorization")), scope, model)

    def _fault(self, error: Exception) -> TilthError:
        """Log a fault of ours and return what the client learns of it."""
        self._log.write("error", "fault", error=f"{type(error).__name__}: {error}"[:2000])
        return TilthError("the server failed", why="its log says more")

    async def _ended(
        self,
        name: str,
        message: Any,
        context: Any,
        metadata: Mapping[str, Any],
        answer: Any,
        span: Context | None,
        began: int,
        failure: TilthError | None,
    ) -> None:
        """Leave a span and a line, and end the call when it failed."""
        given_id = request_id(_text(metadata.get("x-request-id")) or getattr(message, "id", ""))
        self._note(name, message, context, given_id, answer, began, failure)
        more = [] if failure is None else [("x-request-id", given_id)]
        if isinstance(failure, OverloadedError):
            more.append(("retry-after", str(failure.retry_after_s)))
        if span is not None:
            more.append(("traceparent", header(span)))
            now_ns, took_ns = time.time_ns(), time.perf_counter_ns() - began
            error = failure.what if failure else ""
            self._tracer.span(f"{SERVICE}/{name}", span, {}, now_ns - took_ns, now_ns, error)
        context.set_trailing_metadata(tuple(more))
        if failure is not None:
            import grpc

            await context.abort(getattr(grpc.StatusCode, grpc_status(failure)), str(failure))

    def _note(
        self, name: str, message: Any, context: Any, id: str, answer: Any, began: int, failure: TilthError | None
    ) -> None:
        model = getattr(message, "model_name", "") or getattr(message, "name", "")
        version = getattr(message, "model_version", "") or getattr(message, "version", "")
        status, error = (200, "") if failure is None else (http_status(failure), failure.what)
        taken, given = (0 if one is None else one.ByteSize() for one in (message, answer))
        ms = (time.perf_counter_ns() - began) / 1e6
        self._log.request(id, name, model, version, status, ms, taken, given, context.peer(), error)

    async def _server_live(self, message: Any, context: Any) -> Any:
        return self._made["ServerLiveResponse"](live=True)

    async def _server_ready(self, message: Any, context: Any) -> Any:
        return self._made["ServerReadyResponse"](ready=self._service.is_ready())

    async def _model_ready(self, message: Any, context: Any) -> Any:
        self._service.served(message.name)
        ready = self._service.is_model_ready(message.name, message.version)
        return self._made["ModelReadyResponse"](ready=ready)

    async def _server_metadata(self, message: Any, context: Any) -> Any:
        return self._made["ServerMetadataResponse"](**self._service.metadata())

    async def _model_metadata(self, message: Any, context: Any) -> Any:
        told = model_metadata(self._service, message.name, message.version)
        return self._made["ModelMetadataResponse"](**{key: told[key] for key in told if key != "properties"})

    async def _model_config(self, message: Any, context: Any) -> Any:
        told = model_config(self._service, message.name, message.version)
        for tensor in (*told["input"], *told["output"]):
            tensor["data_type"] = _TYPE_NUMBERS[tensor["data_type"]]
        config = self._made["ModelConfig"]()
        _fill(config, told)
        return self._made["ModelConfigResponse"](config=config)

    async def _model_statistics(self, message: Any, context: Any) -> Any:
        response = self._made["ModelStatisticsResponse"]()
        _fill(response, self._repository.statistics(message.name, message.version))
        return response

    async def _repository_index(self, message: Any, context: Any) -> Any:
        return self._made["RepositoryIndexResponse"](models=self._repository.index(message.ready))

    async def _repository_model_load(self, message: Any, context: Any) -> Any:
        await self._repository.load(message.model_name, grpc_infer.plain(message.parameters))
        return self._made["RepositoryModelLoadResponse"]()

    async def _repository_model_unload(self, message: Any, context: Any) -> Any:
        await self._repository.unload(message.model_name)
        return self._made["RepositoryModelUnloadResponse"]()

    async def _trace_setting(self, message: Any, context: Any) -> Any:
        told = self._repository.tracing({name: list(value.value) for name, value in message.settings.items()})
        response = self._made["TraceSettingResponse"]()
        for name, value in told.items():
            response.settings[name].value.extend([value] if isinstance(value, str) else value)
        return response

    async def _log_settings(self, message: Any, context: Any) -> Any:
        told = await self._repository.logging(grpc_infer.plain(message.settings))
        response = self._made["LogSettingsResponse"]()
        for name, value in told.items():
            kind = (
                "bool_param"
                if isinstance(value, bool)
                else "uint32_param"
                if isinstance(value, int)
                else "string_param"
            )
            setattr(response.settings[name], kind, value)
        return response

    async def _shared_memory_status(self, message: Any, context: Any) -> Any:
        return self._made["SharedMemoryResponse"]()

    async def _shared_memory_register(self, message: Any, context: Any) -> Any:
        raise no_shared_memory()

    _system_shared_memory_status = _cuda_shared_memory_status = _shared_memory_status
    _system_shared_memory_register = _cuda_shared_memory_register = _shared_memory_register
    _system_shared_memory_unregister = _cuda_shared_memory_unregister = _shared_memory_status


def _fill(message: Any, told: dict[str, Any]) -> None:
    from google.protobuf.json_format import ParseDict

    ParseDict(told, message)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
