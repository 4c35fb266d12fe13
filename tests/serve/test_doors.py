"""Who gets in at which door: real TLS, real tokens, both protocols, and the port of the management."""

import datetime
import hashlib
import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from server import TILTH, Server, until

import tilth
from tilth.serve.grpc_messages import SERVICE, messages
from tilth.testing.models import affine

INFER, MANAGE = "a-token-that-may-infer", "a-token-that-may-manage"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certified bundle, a certificate with its key, and a file of tokens."""
    made = tmp_path_factory.mktemp("doors")
    small = affine()
    tilth.import_model(small.model, small.inputs(4), out=made / "m.tilth")
    tilth.build(made / "m.tilth", budget_s=1.0, batches=(1,), engines=("ort",))
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made_cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (made / "cert.pem").write_bytes(made_cert.public_bytes(serialization.Encoding.PEM))
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (made / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *kinds))
    lines = [f"sha256:{hashlib.sha256(INFER.encode()).hexdigest()} infer caller"]
    lines.append(f"sha256:{hashlib.sha256(MANAGE.encode()).hexdigest()} manage,metrics operator")
    (made / "tokens").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for private in ("key.pem", "tokens"):
        (made / private).chmod(0o600)
    return made


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[Server]:
    """Return a server behind TLS and tokens, whose management has a port of its own."""
    options = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--tokens", folder / "tokens"]
    options += ["--manage", "127.0.0.1:0", "--workers", "1"]
    with Server(f"m={folder / 'm.tilth'}", *options, command=TILTH, ready=False) as server:
        until(lambda: _ask(server.address, folder, "GET", "/v2/health/ready", "") == 200, server)
        yield server


def _ask(address: str, folder: Path, method: str, path: str, token: str, data: bytes | None = None) -> int:
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    connection = http.client.HTTPSConnection(*address.split(":"), context=context, timeout=20)
    try:
        connection.request(method, path, data, {"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    finally:
        connection.close()


def _body() -> bytes:
    values = affine().inputs(1)
    tensors = [
        {"name": name, "shape": list(value.shape), "datatype": "FP32", "data": value.ravel().tolist()}
        for name, value in values.items()
    ]
    return json.dumps({"inputs": tensors}).encode()


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/v2/health/live", {"": 200, "wrong": 200, INFER: 200, MANAGE: 200}),
        ("GET", "/v2/models/m", {"": 401, "wrong": 401, INFER: 200, MANAGE: 403}),
        ("GET", "/v2/models/stats", {"": 401, "wrong": 401, INFER: 200, MANAGE: 403}),
        ("POST", "/v2/models/m/infer", {"": 401, "wrong": 401, INFER: 200, MANAGE: 403}),
        ("POST", "/v1/models/m:predict", {"": 401, "wrong": 401, MANAGE: 403}),
        ("POST", "/v2/repository/index", {"": 404, INFER: 404, MANAGE: 404}),
        ("GET", "/metrics", {"": 404, INFER: 404, MANAGE: 404}),
    ],
)
def test_a_route_that_lets_the_wrong_one_in_over_rest(
    guarded: Server, folder: Path, method: str, path: str, statuses: dict[str, int]
) -> None:
    data = _body() if method == "POST" else None
    assert {one: _ask(guarded.address, folder, method, path, one, data) for one in statuses} == statuses


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("POST", "/v2/repository/index", {"": 401, "wrong": 401, INFER: 403, MANAGE: 200}),
        ("POST", "/v2/repository/models/other/load", {"": 401, INFER: 403, MANAGE: 404}),
        ("GET", "/metrics", {"": 401, INFER: 403, MANAGE: 200}),
        ("GET", "/v2/logging", {"": 401, INFER: 403, MANAGE: 200}),
        ("POST", "/v2/models/m/infer", {"": 404, INFER: 404, MANAGE: 404}),
    ],
)
def test_a_route_that_lets_the_wrong_one_in_at_the_port_of_the_management(
    guarded: Server, folder: Path, method: str, path: str, statuses: dict[str, int]
) -> None:
    data = b"{}" if method == "POST" else None
    assert {one: _ask(guarded.manage, folder, method, path, one, data) for one in statuses} == statuses


@pytest.mark.parametrize(
    ("token", "code"),
    [("", "UNAUTHENTICATED"), ("wrong", "UNAUTHENTICATED"), (MANAGE, "PERMISSION_DENIED"), (INFER, "OK")],
)
def test_a_call_that_lets_the_wrong_one_in_over_grpc(guarded: Server, folder: Path, token: str, code: str) -> None:
    made, values = messages(), affine().inputs(1)
    request = made["ModelInferRequest"](model_name="m")
    for name, value in values.items():
        request.inputs.add(name=name, datatype="FP32", shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    credentials = grpc.ssl_channel_credentials((folder / "cert.pem").read_bytes())
    with grpc.secure_channel(guarded.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            made["ModelInferRequest"].SerializeToString,
            made["ModelInferResponse"].FromString,
        )
        found = "OK"
        try:
            call(request, timeout=20, metadata=[("authorization", f"Bearer {token}")] if token else [])
        except grpc.RpcError as error:
            found = error.code().name
    assert found == code


def test_a_secret_is_in_no_log(guarded: Server) -> None:
    assert INFER not in guarded.log() and MANAGE not in guarded.log() and "wrong" not in guarded.log()


def test_plain_http_is_not_answered_where_tls_is(guarded: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=20)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/v2/health/live")
        connection.getresponse()
    connection.close()


@pytest.mark.parametrize("flags", [[], ["--tokens", "tokens"], ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]])
def test_a_port_for_other_machines_without_tls_and_tokens_is_refused(folder: Path, flags: list[str]) -> None:
    named = [str(folder / one) if not one.startswith("--") else one for one in flags]
    command = [sys.executable, "-m", "tilth", "serve", str(folder / "m.tilth"), "--http", "0.0.0.0:0", "--grpc", ""]
    done = subprocess.run([*command, *named], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 6 and "--insecure" in done.stderr
