"""Addresses as people type them, and what may be reached from where."""

import datetime
import os
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.address import Address, check_exposure, check_key_files, parse, parse_host
from tilth.core.errors import InvalidError, MissingError, RefusedError, UntrustedError

HERE = [Address("127.0.0.1", 8751), Address("::1", 8751), Address("localhost", 0), Address("127.9.9.9", 1)]
ALL = "0.0.0.0"  # noqa: S104 - refused here, never bound
ELSEWHERE = [
    ALL,
    "::",
    "10.0.0.1",
    "gpu1.example",
    "localhost.example",
    "::ffff:7f00:1",
    "128.0.0.1",
    "notlocalhost",
]


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:8751", Address("127.0.0.1", 8751), "127.0.0.1:8751"),
        ("[::1]:8751", Address("::1", 8751), "[::1]:8751"),
        ("[0:0:0:0:0:0:0:1]:1", Address("::1", 1), "[::1]:1"),
        ("LocalHost:0", Address("localhost", 0), "localhost:0"),
        ("gpu-1.example:65535", Address("gpu-1.example", 65535), "gpu-1.example:65535"),
        ("my_service:80", Address("my_service", 80), "my_service:80"),
        ("0.0.0.0:1", Address(ALL, 1), "0.0.0.0:1"),
        ("[::]:1", Address("::", 1), "[::]:1"),
    ],
)
def test_what_people_type_is_understood(text: str, address: Address, shown: str) -> None:
    assert parse(text) == address
    assert str(address) == shown
    assert parse(shown) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no port"),
        ("8751", "no port"),
        ("localhost", "no port"),
        ("localhost:", "no port"),
        (":8751", "no host"),
        ("localhost:65536", "the port is not 0 to 65535"),
        ("localhost:-1", "no port"),
        ("localhost:+1", "no port"),
        ("localhost:080", "the port is not 0 to 65535"),
        ("localhost:99999999999999999999", "the port is not 0 to 65535"),
        ("localhost:８７", "character"),
        ("localhost:1\n", "character"),
        ("local host:1", "character"),
        ("localhost\0:1", "character"),
        ("lökalhost:1", "character"),
        ("http://localhost:1", "URL"),
        ("localhost:1/v2", "URL"),
        ("unix:/tmp/x:1", "URL"),
        ("::1:8751", "brackets"),
        ("a:b:1", "brackets"),
        ("[::1]", "no port"),
        ("[::1", "the host is neither"),
        ("[::1%eth0]:1", "neither"),
        ("[127.0.0.1]:1", "looks like an IP address"),
        ("[:::]:1", "looks like an IP address"),
        ("-a:1", "neither"),
        ("a..b:1", "neither"),
        ("localhost.:1", "neither"),
        ("user@localhost:1", "neither"),
        ("*:1", "neither"),
        ("a" * 64 + ":1", "neither"),
        ("a" * 4096, "characters"),
        ("a." * 2048 + "a:1", "characters"),
        ("[" + ":" * 4096 + "]:1", "characters"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(text)
    assert why in caught.value.why and "HOST:PORT" in caught.value.hint
    assert "\0" not in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.parametrize(
    "host", ["127.1", "0", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.2.3", "256.1.1.1", "a.0x"]
)
def test_an_address_in_disguise_is_not_taken_for_a_name(host: str) -> None:
    with pytest.raises(InvalidError, match="is not an address"):
        parse(f"{host}:1")


@settings(max_examples=200)
@given(st.one_of(st.text(), st.from_regex(r"[\[\]:.a-f0-9x/@%-]{0,40}:[0-9]{0,6}", fullmatch=True)))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    try:
        found = parse(text)
    except InvalidError as error:
        assert error.why and error.hint
    else:
        assert parse(str(found)) == found and 0 <= found.port <= 65535


@settings(max_examples=200)
@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_comes_back_as_it_was(ip: object, port: int) -> None:
    text = f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
    assert parse(text).host == str(ip) == parse_host(text.rpartition(":")[0])


@pytest.mark.parametrize("address", HERE, ids=str)
def test_an_address_that_only_this_machine_reaches_needs_nothing(address: Address) -> None:
    assert address.loopback
    check_exposure([address], tls=False, tokens=False, insecure=False)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_what_only_resembles_loopback_is_not(host: str) -> None:
    assert not Address(host, 1).loopback


@pytest.mark.parametrize("host", ELSEWHERE)
@pytest.mark.parametrize(("tls", "tokens"), [(False, False), (True, False), (False, True)])
def test_a_server_that_others_reach_without_tls_and_tokens_is_refused(host: str, tls: bool, tokens: bool) -> None:
    with pytest.raises(RefusedError) as caught:
        check_exposure([HERE[0], Address(host, 8751)], tls=tls, tokens=tokens, insecure=False)
    error = caught.value
    assert str(Address(host, 8751)) in error.what and "127.0.0.1" not in error.what
    assert ("--tls-cert" in error.hint) != tls and ("--tls-key" in error.hint) != tls and ("TLS" in error.why) != tls
    assert ("--tokens" in error.hint) != tokens and ("--jwt-key" in error.hint) != tokens
    assert "--insecure" in error.hint


def test_one_exposed_address_among_many_is_enough_to_refuse() -> None:
    with pytest.raises(RefusedError, match="`0.0.0.0:1`, `10.0.0.1:2`"):
        check_exposure([*HERE, Address(ALL, 1), Address("10.0.0.1", 2)], tls=False, tokens=False, insecure=False)


def test_tls_and_tokens_or_a_plain_yes_let_it_be_reached() -> None:
    for tls, tokens, insecure in ((True, True, False), (False, False, True), (True, False, True), (False, True, True)):
        check_exposure([Address(ALL, 1)], tls=tls, tokens=tokens, insecure=insecure)


def private_pem(key: ec.EllipticCurvePrivateKey, pass_phrase: bytes = b"") -> bytes:
    locked = serialization.BestAvailableEncryption(pass_phrase) if pass_phrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=9000))
    (tmp_path / "cert.pem").write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "key.pem").chmod(0o600)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_a_pair_that_fits_is_taken(pair: tuple[Path, Path]) -> None:
    check_key_files(*pair)
    pair[1].chmod(0o400)
    check_key_files(str(pair[0]), str(pair[1]))


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o660, 0o601, 0o777])
def test_a_key_that_others_may_read_is_refused(pair: tuple[Path, Path], mode: int) -> None:
    pair[1].chmod(mode)
    with pytest.raises(RefusedError, match="open to other users") as caught:
        check_key_files(*pair)
    assert caught.value.hint == f"chmod 600 {pair[1]}" and f"{mode:04o}" in caught.value.why


def test_the_key_of_another_certificate_is_refused(pair: tuple[Path, Path]) -> None:
    pair[1].write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(InvalidError) as caught:
        check_key_files(*pair)
    assert caught.value.why == "the key is not the one of the certificate"


def test_a_key_with_a_pass_phrase_does_not_ask_at_the_terminal(pair: tuple[Path, Path]) -> None:
    pair[1].write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    with pytest.raises(InvalidError, match="pass phrase"):
        check_key_files(*pair)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\0" * 4096]
)
def test_what_is_no_pem_is_told(pair: tuple[Path, Path], which: int, data: bytes) -> None:
    pair[which].write_bytes(data)
    with pytest.raises(InvalidError, match="cannot be used for TLS"):
        check_key_files(*pair)


def test_the_certificate_and_the_key_the_wrong_way_round_are_told(pair: tuple[Path, Path]) -> None:
    pair[0].chmod(0o600)
    with pytest.raises(InvalidError, match="cannot be used for TLS"):
        check_key_files(pair[1], pair[0])


@pytest.mark.parametrize("which", [0, 1])
def test_a_pipe_a_folder_or_nothing_in_place_of_a_file_is_told_at_once(pair: tuple[Path, Path], which: int) -> None:
    pair[which].unlink()
    with pytest.raises(MissingError):
        check_key_files(*pair)
    os.mkfifo(pair[which], 0o600)
    with pytest.raises(UntrustedError, match="is not read"):
        check_key_files(*pair)
    pair[which].unlink()
    pair[which].mkdir()
    with pytest.raises(UntrustedError, match="is not read"):
        check_key_files(*pair)


def test_a_link_to_a_key_is_followed_as_mounted_secrets_are_links(pair: tuple[Path, Path], tmp_path: Path) -> None:
    link = tmp_path / "link.pem"
    link.symlink_to(pair[1])
    check_key_files(pair[0], link)
    pair[1].chmod(0o644)
    with pytest.raises(RefusedError):
        check_key_files(pair[0], link)


def test_checking_leaves_no_file_open(pair: tuple[Path, Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_key_files(*pair)
        pair[1].chmod(0o644)
        with pytest.raises(RefusedError):
            check_key_files(*pair)
    assert len(os.listdir("/proc/self/fd")) == before
