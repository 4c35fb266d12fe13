"""Trace context in the `traceparent` header, as W3C Trace Context 1 has it, and spans sent to a collector."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from tilth.core.errors import InvalidError, MissingError
from tilth.core.version import VERSION

#: Clause 3.2.2: lower-case hex, version `ff` and ids of zeros forbidden. More fields are for versions above `00` alone.
_HEADER = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_SAMPLED = 1
_SERVICE = "tilth"
#: OpenTelemetry's name for the path at which a collector takes spans over HTTP.
_PATH = "/v1/traces"
#: How long one batch is tried. A queue has four, and a server that ends waits for them.
_SEND_S = 2.0


@dataclass(frozen=True)
class Context:
    """One span of a trace, in lower-case hex: 32 digits for the trace, 16 for the span and for its parent, if any."""

    trace_id: str
    span_id: str
    sampled: bool
    parent_id: str = ""


def parse(header: str | None) -> Context | None:
    """Return the caller's span from the value of `traceparent`, None when there is none or it breaks a rule.

    A version above `00` is read as far as `00` goes (clause 3.2.4). Blanks around the value are for HTTP to remove.
    """
    match = _HEADER.fullmatch(header) if header else None
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    return Context(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


def start(sampled: bool) -> Context:
    """Return the first span of a new trace."""
    return Context(secrets.token_hex(16), secrets.token_hex(8), sampled)


def child(context: Context) -> Context:
    """Return a new span below `context`."""
    return Context(context.trace_id, secrets.token_hex(8), context.sampled, context.span_id)


def header(context: Context) -> str:
    """Return the value of `traceparent` for what is called from this span."""
    return f"00-{context.trace_id}-{context.span_id}-{'01' if context.sampled else '00'}"


class Tracer(Protocol):
    """Where finished spans go."""

    def span(
        self,
        name: str,
        context: Context,
        attributes: Mapping[str, Any],
        start_ns: int,
        end_ns: int,
        error: str = "",
        *,
        inner: bool = False,
    ) -> None:
        """Send the span `context`, from `start_ns` to `end_ns` since 1970, when it is sampled; it never waits.

        `inner` marks a part of a request rather than the request. What is not a text, truth or number becomes a text.
        """

    def close(self) -> None:
        """Send what waits, for about 10 seconds at the most, and end."""


class _NoTracer:
    """Does nothing."""

    def span(self, *arguments: object, **named: object) -> None: ...

    def close(self) -> None: ...


def tracer(endpoint: str | None) -> Tracer:
    """Return what sends spans to `endpoint`, by OTLP over HTTP, or without one does nothing.

    An endpoint without a path gets `/v1/traces`. Make it after a fork: a thread of it does the sending. It logs what
    it cannot send by Python's `logging`, and drops it.

    Raises:
        InvalidError: `endpoint` is not an address of HTTP.
        MissingError: opentelemetry is not installed.
    """
    if endpoint is None:
        return _NoTracer()
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidError(
            f"`{endpoint}` is not an address that spans can be sent to", hint="give one such as http://127.0.0.1:4318"
        )
    return _OtlpTracer(endpoint if parts.path.strip("/") else parts._replace(path=_PATH).geturl())


class _OtlpTracer:
    """Hands spans to OpenTelemetry's batches.

    They are made by hand: its own tracer chooses the ids of spans, and these went out in headers before.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry import trace  # type: ignore[import-not-found,unused-ignore]
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found,unused-ignore]
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # type: ignore[import-not-found,unused-ignore]
            from opentelemetry.sdk.trace import ReadableSpan  # type: ignore[import-not-found,unused-ignore]
            from opentelemetry.sdk.trace.export import (  # type: ignore[import-not-found,unused-ignore]
                BatchSpanProcessor,
            )
            from opentelemetry.sdk.util.instrumentation import (  # type: ignore[import-not-found,unused-ignore]
                InstrumentationScope,
            )
        except ImportError as error:
            raise MissingError(
                "opentelemetry is not installed", why=str(error), hint="run `pip install 'tilth[otel]'`"
            ) from None
        self._trace: Any = trace
        self._span: Any = ReadableSpan
        self._scope = InstrumentationScope(_SERVICE, VERSION)
        name = os.environ.get("OTEL_SERVICE_NAME", _SERVICE)
        self._resource = Resource.create({"service.name": name, "process.pid": os.getpid()})
        self._batches: Any = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_S))

    def span(
        self,
        name: str,
        context: Context,
        attributes: Mapping[str, Any],
        start_ns: int,
        end_ns: int,
        error: str = "",
        *,
        inner: bool = False,
    ) -> None:
        if not context.sampled:
            return
        trace = self._trace
        made = self._span(
            name=name,
            context=self._named(context.trace_id, context.span_id, False),
            parent=self._named(context.trace_id, context.parent_id, not inner) if context.parent_id else None,
            resource=self._resource,
            attributes={key: v if isinstance(v, str | bool | int | float) else str(v) for key, v in attributes.items()},
            kind=trace.SpanKind.INTERNAL if inner else trace.SpanKind.SERVER,
            status=trace.Status(trace.StatusCode.ERROR, error) if error else trace.Status(),
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )
        self._batches.on_end(made)

    def _named(self, trace_id: str, span_id: str, is_remote: bool) -> Any:
        flags = self._trace.TraceFlags(_SAMPLED)
        return self._trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, flags)

    def close(self) -> None:
        self._batches.shutdown()
