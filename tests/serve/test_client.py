"""The official client against a real server: everything that it can ask of a server without an accelerator."""

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from onnx import TensorProto, helper, save
from server import TILTH, Server, until
from test_metrics import samples as strictly_read
from tritonclient.utils import InferenceServerException

import tilth
from tilth.serve.grpc_messages import SERVICE, messages

TYPES = {
    "BOOL": (TensorProto.BOOL, np.array([[True, False, True]])),
    "UINT8": (TensorProto.UINT8, np.array([[0, 7, 255]], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([[0, 7, 65535]], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([[0, 7, 2**32 - 1]], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([[0, 7, 2**64 - 1]], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([[-128, 0, 127]], np.int8)),
    "INT16": (TensorProto.INT16, np.array([[-32768, 0, 32767]], np.int16)),
    "INT32": (TensorProto.INT32, np.array([[-(2**31), 0, 2**31 - 1]], np.int32)),
    "INT64": (TensorProto.INT64, np.array([[-(2**63), 0, 2**63 - 1]], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([[0.1, -2, 65504]], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([[0.1, -2, 3e38]], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([[0.1, -2, 1e300]])),
    "BYTES": (TensorProto.STRING, np.array([["", "grün", "x" * 300]], object)),
}
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def echo(path: Path, dtypes: dict[str, int], width: int) -> Path:
    """Write a model that answers each input as it is."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in dtypes]
    ends = {
        side: [helper.make_tensor_value_info(name + side, kind, ["batch", width]) for name, kind in dtypes.items()]
        for side in ("", "_out")
    }
    graph = helper.make_graph(nodes, "echo", ends[""], ends["_out"])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of certified bundles.

    `echo` in two versions, `types` with one input of each datatype, and `pair` with two inputs of one column.
    """
    folder = tmp_path_factory.mktemp("models")
    samples: dict[str, Any] = {
        "echo": {"x": ROWS},
        "types": {name: rows for name, (_, rows) in TYPES.items()},
        "pair": {"age": ROWS[:, :1], "city": np.array([["Oslo"], ["Bonn"], ["Rom"]], object)},
    }
    made = {
        "echo": {"x": TensorProto.FLOAT},
        "types": {name: kind for name, (kind, _) in TYPES.items()},
        "pair": {"age": TensorProto.FLOAT, "city": TensorProto.STRING},
    }
    for name, dtypes in made.items():
        width = next(iter(samples[name].values())).shape[1]
        model = echo(folder / f"{name}.onnx", dtypes, width)
        (folder / "served" / name).mkdir(parents=True)
        first = folder / "served" / name / "1.tilth"
        tilth.import_model(model, samples[name], out=first)
        tilth.build(first, budget_s=1.0, batches=(1,), engines=("ort",))
    (folder / "served" / "echo" / "2.tilth").write_bytes((folder / "served" / "echo" / "1.tilth").read_bytes())
    return folder


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[Server]:
    """Return a server with both versions of `echo` and with `types`."""
    arguments = ["--models", bundles / "served", "--policy", "echo=all", "--split", "echo=1:50,2:50", "--workers", "1"]
    with Server(*arguments, command=TILTH) as made:
        yield made


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Any, Any]]:
    """Return the client's module and a client."""
    module: Any = over_http if request.param == "http" else over_grpc
    made = module.InferenceServerClient(server.address if request.param == "http" else server.grpc)
    yield module, made
    made.close()


def inputs(module: Any, values: dict[str, Any], **how: Any) -> list[Any]:
    found = []
    for name, value in values.items():
        kind = "BYTES" if value.dtype == object else {np.dtype(bool): "BOOL"}.get(value.dtype, "")
        kind = kind or next(one for one, (_, rows) in TYPES.items() if rows.dtype == value.dtype)
        found.append(module.InferInput(name, list(value.shape), kind))
        found[-1].set_data_from_numpy(value, **how)
    return found


def test_it_sees_what_is_served(client: tuple[Any, Any]) -> None:
    module, asked = client
    as_json = {} if module is over_http else {"as_json": True}
    assert asked.is_server_live() and asked.is_server_ready()
    assert asked.is_model_ready("echo") and asked.is_model_ready("echo", "2")
    assert asked.get_server_metadata(**as_json)["name"] == "tilth"
    metadata = asked.get_model_metadata("echo", **as_json)
    assert metadata["versions"] == ["1", "2"] and metadata["inputs"][0]["datatype"] == "FP32"
    config = asked.get_model_config("echo", **as_json)
    assert (config if module is over_http else config["config"])["backend"] == "tilth"
    index = asked.get_model_repository_index(**as_json)
    rows = index if module is over_http else index["models"]
    assert {(row["name"], row["version"], row["state"]) for row in rows} >= {("echo", "1", "READY")}
    stats = asked.get_inference_statistics("echo", **as_json)
    assert {row["version"] for row in stats["model_stats"]} == {"1", "2"}


@pytest.mark.parametrize("name", TYPES)
def test_every_datatype_comes_back_as_it_went(client: tuple[Any, Any], name: str) -> None:
    module, asked = client
    values = {one: rows for one, (_, rows) in TYPES.items()}
    ways: list[dict[str, Any]] = [{}] if module is over_grpc or name in ("FP16",) else [{}, {"binary_data": False}]
    for how in ways:
        given = inputs(module, {one: rows for one, rows in values.items() if one != name})
        given += inputs(module, {name: values[name]}, **how)
        answer = asked.infer("types", given, outputs=[module.InferRequestedOutput(f"{name}_out", **how)])
        found, wanted = answer.as_numpy(f"{name}_out"), values[name]
        if name == "BYTES":
            found = np.array([[one if isinstance(one, str) else one.decode() for one in row] for row in found], object)
        assert found.dtype == wanted.dtype and found.tolist() == wanted.tolist()


def test_ids_parameters_classes_and_a_version_are_kept(client: tuple[Any, Any]) -> None:
    module, asked = client
    outputs = [module.InferRequestedOutput("x_out", class_count=2)]
    answer = asked.infer("echo", inputs(module, {"x": ROWS}), model_version="2", request_id="a-1", outputs=outputs)
    told = answer.get_response() if module is over_http else answer.get_response(as_json=True)
    assert told["id"] == "a-1" and told["model_version"] == "2"
    assert answer.as_numpy("x_out")[0].tolist() == [b"3.000000:3", b"2.000000:2"]


def test_calls_that_are_not_waited_for_are_answered_each_with_its_own(client: tuple[Any, Any]) -> None:
    module, asked = client
    given = [inputs(module, {"x": ROWS + number}) for number in range(8)]
    answers: dict[int, Any] = {}
    if module is over_http:
        pending = [asked.async_infer("echo", one, parameters={"mine": 7, "flag": True}) for one in given]
        answers = {number: one.get_result() for number, one in enumerate(pending)}
    else:

        def keep(number: int, result: Any, error: Any) -> None:
            answers[number] = error or result

        for number, one in enumerate(given):
            asked.async_infer("echo", one, functools.partial(keep, number), parameters={"mine": 7, "flag": True})
        until(lambda: len(answers) == 8)
    for number, answer in answers.items():
        assert np.array_equal(answer.as_numpy("x_out"), ROWS + number)


def test_bf16_widens_where_a_model_takes_fp32(server: Server) -> None:
    values = np.array([[1.5, -2, 0, 256]], np.float32)
    given = over_grpc.InferInput("x", [1, 4], "BF16")
    given.set_data_from_numpy(values.astype(ml_dtypes.bfloat16))
    with over_grpc.InferenceServerClient(server.grpc) as asked:
        assert np.array_equal(asked.infer("echo", [given]).as_numpy("x_out"), values)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_packed_requests_and_answers(server: Server, packing: str) -> None:
    rows = np.zeros((500, 4), np.float32)
    with over_http.InferenceServerClient(server.address) as asked:
        answer = asked.infer(
            "echo",
            inputs(over_http, {"x": rows}),
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
    assert np.array_equal(answer.as_numpy("x_out"), rows)


def test_a_stream_answers_each_request_and_goes_on_after_a_bad_one(server: Server) -> None:
    answers: list[tuple[Any, Any]] = []
    with over_grpc.InferenceServerClient(server.grpc) as asked:
        asked.start_stream(lambda result, error: answers.append((result, error)))
        for name in ("echo", "nobody", "echo"):
            asked.async_stream_infer(name, inputs(over_grpc, {"x": ROWS}))
        until(lambda: len(answers) == 3)
        asked.stop_stream()
    assert [error is None for _, error in answers] == [True, False, True]
    assert np.array_equal(answers[2][0].as_numpy("x_out"), ROWS)


def test_a_split_sends_requests_to_both_versions(client: tuple[Any, Any]) -> None:
    module, asked = client
    found = []
    for _ in range(40):
        answer = asked.infer("echo", inputs(module, {"x": ROWS}))
        told = answer.get_response() if module is over_http else answer.get_response(as_json=True)
        found.append(told["model_version"])
    assert {"1", "2"} == set(found), "one in 2^39 that this is luck"


def test_a_bundle_comes_with_the_call_and_goes_again(client: tuple[Any, Any], bundles: Path) -> None:
    module, asked = client
    data = (bundles / "served" / "echo" / "1.tilth").read_bytes()
    asked.load_model("guest", files={"file:1/m.tilth": data})
    assert np.array_equal(asked.infer("guest", inputs(module, {"x": ROWS})).as_numpy("x_out"), ROWS)
    asked.load_model("guest", config=json.dumps({"versions": "all"}))
    asked.unload_model("guest")
    with pytest.raises(InferenceServerException, match="guest"):
        asked.infer("guest", inputs(module, {"x": ROWS}))
    for refused in ({"config": json.dumps({"backend": "python"})}, {"files": {"file:1/model.py": b"import os"}}):
        with pytest.raises(InferenceServerException, match="config|bundle"):
            asked.load_model("guest", **refused)


def test_settings_are_told_and_shared_memory_is_refused_with_a_reason(client: tuple[Any, Any]) -> None:
    module, asked = client
    assert asked.get_log_settings() and asked.get_trace_settings() is not None
    with pytest.raises(InferenceServerException, match="trace_level.*cannot be changed"):
        asked.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    as_json = {} if module is over_http else {"as_json": True}
    assert "log_verbose_level" in str(asked.update_log_settings({"log_verbose_level": 1, "log_info": True}, **as_json))
    asked.update_log_settings({"log_verbose_level": 0})
    with pytest.raises(InferenceServerException, match="log_file"):
        asked.update_log_settings({"log_file": "/etc/passwd"})
    assert not (asked.get_system_shared_memory_status() if module is over_http else [])
    for register in (
        lambda: asked.register_system_shared_memory("a", "/a", 16),
        lambda: asked.register_cuda_shared_memory("a", b"aGFuZGxl", 0, 16),
    ):
        with pytest.raises(InferenceServerException, match="shared memory is not offered"):
            register()
    given = inputs(module, {"x": ROWS})
    given[0].set_shared_memory("a", 48)
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        asked.infer("echo", given)


def test_plain_rows_are_the_shortest_way(server: Server) -> None:
    rows = ROWS.tolist()
    for told in ({"instances": rows}, rows, {"instances": [{"x": row} for row in rows]}):
        reply = server.post("/v1/models/echo:predict", told)
        assert reply.status == 200 and reply.json["predictions"] == rows
    assert server.post("/v1/models/echo:predict", {"instances": [[1, 2]]}).status == 400
    assert server.post("/v1/models/echo:predict", {"instances": [{"y": [1, 2, 3, 4]}]}).status == 400


def test_rows_of_several_inputs_are_lists_or_objects(server: Server) -> None:
    rows = [{"age": 41.0, "city": "Oslo"}, {"age": 7.0, "city": "Rom"}]
    for told in (rows, [list(row.values()) for row in rows]):
        reply = server.post("/v1/models/pair:predict", {"instances": told})
        assert reply.status == 200, reply.json
        assert reply.json["predictions"] == [{"age_out": [row["age"]], "city_out": [row["city"]]} for row in rows]
    refused = server.post("/v1/models/pair:predict", {"instances": [{"age": "old", "city": "Oslo"}]})
    assert refused.status == 400 and "age" in refused.json["what"]


def test_a_list_of_versions_serves_those_alone_until_a_load_says_otherwise(bundles: Path) -> None:
    arguments = ["--models", bundles / "served", "--policy", "echo=1", "--workers", "1"]
    with Server(*arguments, command=TILTH) as listed, over_http.InferenceServerClient(listed.address) as asked:
        assert asked.get_model_metadata("echo")["versions"] == ["1"]
        with pytest.raises(InferenceServerException, match="version"):
            asked.infer("echo", inputs(over_http, {"x": ROWS}), model_version="2")
        asked.load_model("echo", config=json.dumps({"versions": ["1", "2"], "split": {"1": 0, "2": 100}}))
        assert asked.get_model_metadata("echo")["versions"] == ["1", "2"]
        for _ in range(5):
            answer = asked.infer("echo", inputs(over_http, {"x": ROWS}))
            assert answer.get_response()["model_version"] == "2"
        asked.load_model("echo", config=json.dumps({"versions": "latest"}))
        assert asked.get_model_metadata("echo")["versions"] == ["2"]


def test_what_a_real_server_counts_is_in_prometheus_form_and_adds_up(server: Server) -> None:
    name = 'tilth_requests_total{model="pair",version="1",'

    def answered() -> float:
        found = strictly_read(server.get("/metrics").data.decode())
        return sum(value for key, value in found.items() if key.startswith(name) and 'outcome="success"' in key)

    before = answered()
    for _ in range(3):
        assert server.post("/v1/models/pair:predict", [[1.0, "Oslo"]]).status == 200
    assert answered() == before + 3


def test_a_trace_and_a_request_id_go_in_and_come_out(server: Server) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    reply = server.infer("echo", {"traceparent": given})
    assert reply.headers["traceparent"].split("-")[1] == given.split("-")[1]
    assert reply.headers["traceparent"].split("-")[2] != given.split("-")[2]
    assert server.ask("GET", "/nope", None, {"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"


def test_a_trace_and_a_request_id_go_in_and_come_out_over_grpc_too(server: Server) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    made = messages()
    call: Any = {"request_serializer": made["ModelInferRequest"].SerializeToString}
    request = made["ModelInferRequest"](model_name="echo", id="r-1")
    request.inputs.add(name="x", datatype="FP32", shape=[3, 4])
    request.raw_input_contents.append(ROWS.tobytes())
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", **call)
        _, answered = infer.with_call(request, metadata=[("traceparent", given)])
        trailing = dict(answered.trailing_metadata())
        assert trailing["traceparent"].split("-")[1] == given.split("-")[1] and given not in trailing.values()
        request.model_name = "nobody"
        with pytest.raises(grpc.RpcError) as caught:
            infer(request)
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "r-1"
    lines = [json.loads(line) for line in server.log().splitlines() if '"r-1"' in line]
    assert [(one["call"], one["model"], one["status"]) for one in lines] == [("ModelInfer", "nobody", 404)]
    assert "there is no model" in lines[0]["error"]


def test_a_log_of_every_request_tells_both_protocols_and_calls_nothing_an_error(bundles: Path) -> None:
    arguments = ["--models", bundles / "served", "--workers", "1", "--access-log"]
    with Server(*arguments, command=TILTH) as logged:
        for module, address in ((over_http, logged.address), (over_grpc, logged.grpc)):
            with module.InferenceServerClient(address) as asked:
                asked.infer("echo", inputs(module, {"x": ROWS}))
        until(lambda: logged.log().count("nfer") >= 2)
        lines = [json.loads(line) for line in logged.log().splitlines() if line.startswith("{")]
        told = {one["call"]: one for one in lines if one["event"] == "request" and "nfer" in one["call"]}
    assert set(told) == {"POST /v2/models/echo/infer", "ModelInfer"}
    for one in told.values():
        assert one["status"] == 200 and one["model"] == "echo" and one["id"] and one["bytes_in"] > 48
        assert "error" not in one


@pytest.mark.parametrize("parameters", [[1], "all", 7])
def test_a_load_whose_parameters_are_no_object_is_refused(server: Server, parameters: Any) -> None:
    assert server.post("/v2/repository/models/echo/load", {"parameters": parameters}).status == 400


def test_a_version_that_is_not_there_is_missing_and_not_only_unready(server: Server) -> None:
    assert server.get("/v2/models/echo/versions/9/ready").status == 404
    assert server.get("/v2/models/nobody/ready").status == 404


def test_a_shadow_sees_requests_and_answers_none(bundles: Path) -> None:
    arguments = ["--models", bundles / "served", "--shadow", "echo=2:100%", "--workers", "1"]
    with Server(*arguments, command=TILTH) as shadowed:
        for _ in range(10):
            reply = shadowed.post("/v1/models/echo:predict", {"instances": ROWS.tolist()})
            assert reply.json["model_version"] == "1"
        until(lambda: shadowed.counter("tilth_requests_total", model="echo", version="2", outcome="success") == 10)


@pytest.fixture
def uncertified(tmp_path: Path) -> Path:
    """Return a bundle that was imported and never built."""
    tilth.import_model(
        echo(tmp_path / "raw.onnx", {"x": TensorProto.FLOAT}, 4), {"x": ROWS}, out=tmp_path / "raw.tilth"
    )
    return tmp_path / "raw.tilth"


def test_a_bundle_without_a_certificate_is_certified_on_the_spot_or_refused(uncertified: Path) -> None:
    with Server(f"raw={uncertified}", "--certify", "2s", "--workers", "1", command=TILTH) as server:
        reply = server.post("/v1/models/raw:predict", ROWS.tolist())
        assert reply.status == 200 and reply.json["predictions"] == ROWS.tolist()
        assert '"certifying"' in server.log()
    with Server(f"raw={uncertified}", "--certify", "0s", "--workers", "1", command=TILTH, ready=False) as server:
        until(lambda: "certif" in server.index("raw")["reason"], server)
        assert server.index("raw")["state"] == "UNAVAILABLE"
        assert server.post("/v1/models/raw:predict", ROWS.tolist()).status == 503


def test_a_stop_does_not_wait_for_a_certification(uncertified: Path) -> None:
    with Server(f"raw={uncertified}", "--certify", "300s", "--workers", "1", command=TILTH, ready=False) as server:
        until(lambda: '"stage"' in server.log(), server)
        began = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - began
        print(f"it ended after {took:.1f} s")
        assert took < 8
