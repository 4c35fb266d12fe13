"""Trace context: what breaks the Recommendation starts no trace, and spans keep the ids that went out in headers."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.errors import InvalidError
from tilth.serve.traces import Context, child, header, parse, start, tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"

_WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from tilth.core.errors import MissingError
from tilth.serve.traces import tracer
tracer(None).close()
try:
    tracer("http://127.0.0.1:4318")
except MissingError as error:
    print(error.hint)
"""
_IMPORTS = """
import sys
from tilth.serve.traces import tracer
tracer(None).close()
print("opentelemetry" in sys.modules)
"""


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("09", True), ("fe", False)]
)
def test_a_sound_header_is_read_bit_by_bit(flags: str, sampled: bool) -> None:
    assert parse(f"00-{TRACE}-{SPAN}-{flags}") == Context(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "00",
        GOOD.upper(),
        GOOD.replace("b", "B", 1),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-",
        GOOD + "-more",
        GOOD + "\n",
        GOOD + " ",
        " " + GOOD,
        GOOD.replace("-", "_"),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}a-{SPAN}-01",
        f"00-{TRACE}-{SPAN}a-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}g-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-٠١",
        f"0-{TRACE}-{SPAN}-01",
        f"0g-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"01-{TRACE}-{SPAN}-0",
        f"01-{'0' * 32}-{SPAN}-01",
        f"01-{TRACE.upper()}-{SPAN}-01",
        f"{GOOD},{GOOD}",
        GOOD * 1000,
    ],
)
def test_a_header_that_breaks_a_rule_is_ignored(bad: str | None) -> None:
    assert parse(bad) is None


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-brings", "-\n", "-" + "x" * 10_000])
def test_a_version_of_the_future_is_read_as_far_as_this_one_goes(rest: str) -> None:
    context = parse(f"cc-{TRACE}-{SPAN}-01{rest}")
    assert context == Context(TRACE, SPAN, True)
    assert header(context) == GOOD


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_what_is_read_can_be_sent(text: str) -> None:
    context = parse(text)
    assert context is None or parse(header(context)) == context


def test_a_child_keeps_the_trace_and_not_the_span() -> None:
    parent = parse(GOOD)
    assert parent is not None
    made = child(parent)
    assert (made.trace_id, made.parent_id, made.sampled) == (TRACE, SPAN, True) and made.span_id != SPAN
    assert parse(header(made)) == Context(TRACE, made.span_id, True)
    assert child(parent).span_id != made.span_id


@pytest.mark.parametrize("sampled", [True, False])
def test_a_new_trace_is_sound(sampled: bool) -> None:
    context = start(sampled)
    assert parse(header(context)) == context and context.sampled is sampled and start(sampled) != context


def test_a_context_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        start(True).sampled = False  # type: ignore[misc]


def test_without_an_endpoint_nothing_happens_and_nothing_is_imported() -> None:
    nothing = tracer(None)
    nothing.span("infer", start(True), {"model": "m"}, 1, 2, "no", inner=True)
    nothing.close()
    done = subprocess.run([sys.executable, "-c", _IMPORTS], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_without_opentelemetry_an_endpoint_is_an_error_that_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "run `pip install 'tilth[otel]'`"


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:4318", "file:///etc/passwd", "http://", "grpc://a:4317"])
def test_an_endpoint_that_is_not_one_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidError):
        tracer(endpoint)


class Sink:
    """A collector of one request after another on a port of its own."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sink.got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found: list[Any] = []
        for _, body in self.got:
            request = ExportTraceServiceRequest()
            request.ParseFromString(body)
            found += [(group.resource, span) for group in request.resource_spans for span in group.scope_spans[0].spans]
        return found


@pytest.fixture
def sink() -> Iterator[Sink]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    made = Sink()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


def test_a_span_arrives_with_the_ids_that_went_out_in_the_header(sink: Sink) -> None:
    parent = parse(GOOD)
    assert parent is not None
    request = child(parent)
    inner = child(request)
    sending = tracer(sink.address)
    sending.span("queue", inner, {}, 1_100, 1_200, inner=True)
    sending.span("infer", request, {"model": "m", "rows": 4, "share": 0.5, "ok": False, "path": ["a"]}, 1_000, 2_000)
    sending.close()
    assert {path for path, _ in sink.got} == {"/v1/traces"}
    (_, queue), (resource, infer) = sink.spans()
    assert (infer.name, infer.trace_id.hex(), infer.span_id.hex()) == ("infer", TRACE, request.span_id)
    assert infer.parent_span_id.hex() == SPAN and infer.kind == infer.SPAN_KIND_SERVER
    assert (infer.start_time_unix_nano, infer.end_time_unix_nano) == (1_000, 2_000)
    assert values(infer.attributes) == {"model": "m", "rows": 4, "share": 0.5, "ok": False, "path": "['a']"}
    assert infer.status.code == 0
    assert queue.parent_span_id.hex() == request.span_id and queue.kind == queue.SPAN_KIND_INTERNAL
    assert values(resource.attributes)["service.name"] == "tilth"


def test_a_failure_is_told_and_a_new_trace_has_no_parent(sink: Sink) -> None:
    sending = tracer(f"{sink.address}/v1/traces")
    sending.span("infer", start(True), {}, 1, 2, "no device")
    sending.close()
    ((_, span),) = sink.spans()
    assert span.status.code == span.status.STATUS_CODE_ERROR and span.status.message == "no device"
    assert not span.parent_span_id and sink.got[0][0] == "/v1/traces"


def test_what_is_not_sampled_is_not_sent(sink: Sink) -> None:
    sending = tracer(f"{sink.address}/")
    sending.span("infer", start(False), {}, 1, 2)
    sending.close()
    assert not sink.got


def test_a_collector_that_is_gone_harms_nobody(sink: Sink) -> None:
    code = (
        "import sys\nfrom tilth.serve.traces import start, tracer\n"
        "sending = tracer(sys.argv[1])\nsending.span('infer', start(True), {}, 1, 2)\nsending.close()\nprint('done')\n"
    )
    address = "http://127.0.0.1:9"  # discard: nobody listens
    done = subprocess.run([sys.executable, "-c", code, address], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "done"
