"""The first steps with a control plane: in the background, beyond one machine, and after all tokens are lost."""

import datetime
import json
import os
import ssl
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from plane import PATIENCE_S, ROW, Up, expected, sample, written

from tilth.cli.main import main
from tilth.client.client import Client
from tilth.core.errors import InvalidError, RefusedError, UnavailableError

_FREE = ("--port", "0", "--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0", "--json")


def tilth(*arguments: str, code: int = 0) -> Any:
    run = [sys.executable, "-m", "tilth", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == code, done
    return json.loads(done.stdout)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for this machine, which signs itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    day = datetime.timedelta(days=1)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    built = built.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    paths = folder / "cert.pem", folder / "key.pem"
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[0].write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *kinds))
    paths[1].chmod(0o600)
    return paths


def test_whoever_lost_every_token_gets_another_one_at_a_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Up(home) as up, Client(up.address, up.secret) as client:
        for one in client.tokens.list():
            client.tokens.revoke(one.id)
    told = tilth("up", "--home", str(home), "--new-token", "--detach", *_FREE)
    try:
        with Client(told["address"], told["token"]) as client:
            assert client.me().is_admin
    finally:
        tilth("down", "--home", str(home), "--json")


def test_a_start_in_the_background_that_fails_says_what_one_in_sight_says(tmp_path: Path) -> None:
    wrong = ("up", "--home", str(tmp_path / "home"), "--store", "mysql://db/tilth", *_FREE)
    told = tilth(*wrong, "--detach", code=3)
    assert told["error"] == "InvalidError" and "not the address of a database" in told["what"] and told["hint"]


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [("serve", "orjson", "serve"), ("up", "fastapi", "control"), ("push", "httpx", "client")],
)
def test_a_command_without_its_packages_names_what_brings_them(command: str, package: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from tilth.cli.main import main; main([{command!r}, 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert f"there is no `{package}" in done.stderr and f"tilth[{extra}]" in done.stderr


@pytest.mark.parametrize("command", [["up"], ["backup", "there"], ["restore", "there"]], ids=lambda one: one[0])
@pytest.mark.parametrize("address", ["postgresql://u:hunter2@db/t", "postgresql://u@db/t?password=hunter2"])
def test_a_password_is_no_argument_that_others_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], address: str
) -> None:
    assert main([*command, "--home", str(tmp_path / "home"), "--store", address]) == InvalidError.exit_code
    said = capsys.readouterr().err
    assert "TILTH_STORE" in said and "hunter2" not in said
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("port", ["--host", "--serve-http", "--serve-grpc"])
def test_no_port_is_opened_to_others_in_the_clear(tmp_path: Path, port: str) -> None:
    wrong = ["up", "--home", str(tmp_path / "home"), port, "192.0.2.1" if port == "--host" else "192.0.2.1:0"]
    assert main(wrong) == RefusedError.exit_code
    assert not (tmp_path / "home").exists()


def test_endpoints_on_every_address_are_called_over_tls_by_the_host_of_the_control_plane(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    with Up(tmp_path / "home", "--serve-http", "0.0.0.0:0", *tls) as up:
        with Client(up.address, up.secret, ca=cert) as client:
            client.push(written(sample(), tmp_path / "m.tilth"), "m")
            client.endpoints.make("line", "m")
            seen = client.endpoints.settle(client.endpoints.deploy("line", "1")).standing
            assert seen is not None and seen.state == "ready"
            address = client.me().serving
            with Client(f"https://localhost:{up.port}", up.secret, ca=cert) as elsewhere:
                with pytest.raises(UnavailableError, match="as its certificate names it"):
                    elsewhere.me()
        assert address.startswith("https://127.0.0.1:")
        body = {"instances": [ROW]}
        headers = {"Authorization": f"Bearer {up.secret}"}
        with httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), trust_env=False) as caller:
            answer = caller.post(f"{address}/v1/models/default.line:predict", json=body, headers=headers)
        assert answer.json()["predictions"][0] == pytest.approx(expected())
