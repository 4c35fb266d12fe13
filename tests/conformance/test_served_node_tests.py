"""ONNX's own node tests over the wire: what passes in this process passes through REST and gRPC, bit for bit."""

import asyncio
import http.client
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from in_process import in_process

from tilth import wiring
from tilth.bridge.interface import read_signature
from tilth.bridge.model import Model
from tilth.bridge.model_checks import check_model
from tilth.bridge.value_file import entries, grouped
from tilth.core.address import parse
from tilth.core.build import Build, Precision
from tilth.core.errors import TilthError
from tilth.core.host import HostRule
from tilth.core.signature import Signature
from tilth.ports.arrays import Array, Value
from tilth.serve.access import Access
from tilth.serve.background import Background
from tilth.serve.batching import Batching
from tilth.serve.datatypes import DATATYPES, datatype_of, from_raw, to_raw
from tilth.serve.door import GrpcDoor, HttpDoor
from tilth.serve.grpc_messages import SERVICE, messages
from tilth.serve.limits import Limits
from tilth.serve.loading import Facts
from tilth.serve.logs import Log
from tilth.serve.metrics import Meter
from tilth.serve.repository import Repository
from tilth.serve.rest import Rest
from tilth.serve.rpc import Rpc
from tilth.serve.sentinel import Sentinel
from tilth.serve.service import Served, Service
from tilth.serve.traces import tracer
from tilth.serve.unit import Inline
from tilth.testing.node_tests import NodeCase, bit_difference, chunk
from tilth.testing.survey import Kind

CHUNKS = 4
#: What share of all cases is asked over the wire at least; the others do not pass in this process, or a bundle does not
#: hold them (docs/reference/conformance.md has the reasons). None may drop out in silence.
LEAST = 0.80


class Wire:
    """A service with one model on real sockets; `serve` says which model that is."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._done(self._open(folder))
        self.rest = http.client.HTTPConnection(*self._socket.getsockname(), timeout=60)
        self.channel = grpc.insecure_channel(self._grpc)
        made = self.messages = messages()
        self.infer = self.channel.unary_unary(
            f"/{SERVICE}/ModelInfer", made["ModelInferRequest"].SerializeToString, made["ModelInferResponse"].FromString
        )

    def _done(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _open(self, folder: Path) -> None:
        limits = Limits()
        log = self._log = Log(sys.stderr)
        meter, sentinel = Meter(folder / "meter-0"), Sentinel(folder / "now")
        self.service = Service(limits, meter, sentinel, self._nothing, Background(log))
        repository = Repository(self.service, log, folder)
        hosts = HostRule([parse("127.0.0.1:0")])
        rest = Rest(self.service, repository, Access(), hosts, log, tracer(None))
        rpc = Rpc(self.service, repository, Access(), log, tracer(None))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._grpc = f"127.0.0.1:{free.getsockname()[1]}"
        # The door closes its own.
        self._doors = [
            HttpDoor(rest, os.dup(self._socket.fileno()), limits, None),
            GrpcDoor(rpc, self._grpc, limits, None),
        ]
        for door in self._doors:
            await door.open()

    async def _nothing(self, what: str, about: Mapping[str, Any]) -> None:
        raise AssertionError("nobody asks for anything here")

    def serve(self, model: Model, signature: Signature) -> None:
        """Serve this model as `case` from here on."""
        facts = Facts("case", "", signature, "b", "b", "ort", 1.0, True, Batching(), 60.0, 1 << 40, 0.0)
        served = Served("case")
        served.units["1"] = Inline(0, "1", facts, model)
        served.refresh()
        self.service.models["case"] = served

    def close(self) -> None:
        """Close the doors and end the thread."""
        self.rest.close()
        self.channel.close()
        for door in self._doors:
            self._done(door.close(1.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._socket.close()
        self._log.close()


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    made = Wire(tmp_path_factory.mktemp("wire"))
    yield made
    made.close()


def over_rest(wire: Wire, inputs: Mapping[str, Array]) -> dict[str, Array]:
    data = {name: to_raw(array) for name, array in inputs.items()}
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array),
            "parameters": {"binary_data_size": len(data[name])},
        }
        for name, array in inputs.items()
    ]
    text = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    head = {"Inference-Header-Content-Length": str(len(text))}
    wire.rest.request("POST", "/v2/models/case/infer", text + b"".join(data.values()), head)
    reply = wire.rest.getresponse()
    body = reply.read()
    assert reply.status == 200, body[:500]
    size = int(reply.getheader("inference-header-content-length") or len(body))
    told, raw, found = json.loads(body[:size]), body[size:], {}
    for one in told["outputs"]:
        count = one["parameters"]["binary_data_size"]
        found[one["name"]] = from_raw(one["name"], one["datatype"], one["shape"], raw[:count])
        raw = raw[count:]
    assert not raw
    return found


def over_grpc(wire: Wire, inputs: Mapping[str, Array]) -> dict[str, Array]:
    request = wire.messages["ModelInferRequest"](model_name="case")
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    reply = wire.infer(request, timeout=60)
    pairs = zip(reply.outputs, reply.raw_output_contents, strict=True)
    return {one.name: from_raw(one.name, one.datatype, list(one.shape), raw) for one, raw in pairs}


def travels(case: NodeCase) -> Signature | None:
    """Return the signature of a case that a bundle can hold and that has inputs, None of any other."""
    try:
        check_model(case.model, None)
        signature = read_signature(case.model, batched=False)
    except TilthError:
        return None
    known = all(spec.dtype in DATATYPES for spec in (*signature.inputs, *signature.outputs))
    # The protocol has no request without inputs.
    return signature if known and dict(entries(case.inputs)) else None


def served(wire: Wire, case: NodeCase, folder: Path) -> str | None:
    """Return what is wrong with a case over either protocol, empty when nothing is; None when it does not travel."""
    alone, wanted = in_process(case)
    signature = travels(case)
    if alone.kind not in (Kind.AGREES, Kind.CLOSE) or signature is None:
        return None
    path = folder / "case.onnx"
    path.write_bytes(case.model.SerializeToString())
    device = wiring.this_device()
    build = Build("g", device.target, "ort", Precision.FP32)
    model = Model(wiring.engine("ort").load(path, build, device), signature, build, None)  # type: ignore[arg-type]
    wire.serve(model, signature)
    inputs = {name: np.asarray(array) for name, array in entries(case.inputs)}
    words = []
    for ask in (over_rest, over_grpc):
        try:
            words.append(bit_difference(_whole(ask(wire, inputs), wanted), wanted))
        except (AssertionError, LookupError, TilthError, grpc.RpcError) as error:
            words.append(f"{ask.__name__}: {str(error)[:300]}")
    model.close()
    return "; ".join(filter(None, words))


def _whole(found: Mapping[str, Array], wanted: Mapping[str, Value]) -> dict[str, Value]:
    """Return answers as values; an optional one that is absent does not travel."""
    values = grouped(found)
    return {name: values.get(name) if value is None else values[name] for name, value in wanted.items()}


@pytest.mark.parametrize("index", range(CHUNKS))
def test_what_passes_in_this_process_passes_over_both_protocols_bit_for_bit(
    wire: Wire, index: int, tmp_path: Path
) -> None:
    results = {case.name: served(wire, case, tmp_path) for case in chunk(index, CHUNKS)}
    failed = [f"{name}: {words}" for name, words in results.items() if words]
    assert failed == [], "\n".join(failed[:40])
    assert sum(words is not None for words in results.values()) >= LEAST * len(results)
