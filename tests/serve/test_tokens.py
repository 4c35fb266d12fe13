"""Token files that would let the wrong people in, and JWTs that nobody signed."""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tilth.core.errors import (
    InvalidError,
    MissingError,
    RefusedError,
    TilthError,
    UnsupportedError,
    UntrustedError,
)
from tilth.serve.jwt import JwtVerifier, load_jwt_key
from tilth.serve.tokens import SCOPES, Principal, load_tokens, new_token, parse_tokens

SECRET, LINE = new_token(["infer", "metrics"], "ci@example")
NOW = 1_800_000_000
ISSUER, AUDIENCE = "https://id.example", "tilth"
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": NOW + 300, "scope": "infer openid"}
RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
#: A private key, the key as joserfc has it, and the algorithms that it may be used with.
KEYS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "rsa": (RSA, RSAKey.import_key(RSA), ("RS256", "PS256")),
    "p256": (P256, ECKey.import_key(P256), ("ES256",)),
    "p384": (P384, ECKey.import_key(P384), ("ES384",)),
    "ed25519": (ED, OKPKey.import_key(ED), ("EdDSA", "Ed25519")),
}
ASYMMETRIC = [(name, algorithm) for name, (_, _, algorithms) in KEYS.items() for algorithm in algorithms]


def hashed(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def public_pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def private_pem(key: Any, kind: Any = serialization.PrivateFormat.PKCS8, locked: Any = None) -> bytes:
    found: bytes = key.private_bytes(serialization.Encoding.PEM, kind, locked or serialization.NoEncryption())
    return found


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_json(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def token(header: Any, claims: Any, sign: Callable[[bytes], bytes]) -> str:
    """A JWT of any header and claims, in JSON or as bytes; what a hostile issuer or client could write."""
    message = f"{b64(as_json(header))}.{b64(as_json(claims))}"
    return f"{message}.{b64(sign(message.encode()))}"


def signed(name: str = "ed25519", algorithm: str = "EdDSA", *, header: Any = None, **claims: Any) -> str:
    """A JWT that is well signed; a claim of `...` is left out."""
    wanted = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not ...}
    key = KEYS[name][1]
    sign = jws.JWSRegistry.algorithms[algorithm].sign
    return token({"alg": algorithm, "typ": "JWT"} | (header or {}), wanted, lambda message: sign(message, key))


def signed_raw(header: Any, claims: Any) -> str:
    return token(header, claims, ED.sign)


class Clock:
    def __init__(self, now_s: float = NOW) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


Load = Callable[..., JwtVerifier]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def make(name: str = "ed25519", data: bytes | None = None, **options: Any) -> JwtVerifier:
        path = tmp_path / "public.pem"
        path.write_bytes(public_pem(KEYS[name][0]) if data is None else data)
        path.chmod(0o644)
        return load_jwt_key(path, **{"issuer": ISSUER, "audience": AUDIENCE, "clock": Clock(), **options})

    return make


@pytest.fixture
def verifier(load: Load) -> JwtVerifier:
    return load()


def why(verifier: JwtVerifier, text: str) -> str:
    with pytest.raises(RefusedError) as caught:
        verifier.verify(text)
    return caught.value.why


# The token file.


def test_a_secret_is_found_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(
        f"\ufeff# people\r\n\n  {LINE}  # trailing\r\n"
        f"{hashed('a')} manage\n{hashed('b').upper().replace('SHA', 'sha')} infer b\n",
        encoding="utf-8",
    )
    path.chmod(0o600)
    found = load_tokens(path)
    assert len(found) == 3
    assert found.find(SECRET) == Principal("ci@example", frozenset({"infer", "metrics"}))
    assert found.find("a") == Principal("line-4", frozenset({"manage"}))
    assert found.find("b") == Principal("b", frozenset({"infer"}))
    for wrong in ("", "c", SECRET[:-1], SECRET + "x", LINE, hashed("a"), "\ud800", "a\0", "ä" * 4096):
        assert found.find(wrong) is None


def test_a_new_token_is_long_random_and_ready_for_the_file() -> None:
    secret, line = new_token()
    assert secret.startswith("tilth_") and len(secret) >= 6 + 43 and secret != new_token()[0]
    assert secret not in line and line == f"{hashed(secret)} infer"
    found = parse_tokens(line.encode(), "tokens").find(secret)
    assert found == Principal("line-1", frozenset({"infer"}))


@pytest.mark.parametrize(
    ("scopes", "name"), [([], ""), (["all"], ""), (["infer"], "a b"), (["infer"], "a\nb"), (["infer"], "#")]
)
def test_a_new_token_that_the_file_could_not_hold_is_not_made(scopes: list[str], name: str) -> None:
    with pytest.raises(InvalidError):
        new_token(scopes, name)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o622, 0o777])
def test_a_token_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens"
    path.write_text(LINE)
    path.chmod(mode)
    with pytest.raises(RefusedError, match="other users may write") as caught:
        load_tokens(path)
    assert caught.value.hint == f"chmod go-w {path}"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(RefusedError, match="other users may write"):
        load_tokens(link)


@pytest.mark.parametrize(
    "line", ["hunter2", "hunter2 infer", "tilth_hunter2 infer,manage ci", "md5:hunter2 infer", "SHA256=hunter2"]
)
def test_a_plain_secret_in_the_file_is_refused_and_not_repeated(line: str) -> None:
    with pytest.raises(RefusedError, match="tokens:2") as caught:
        parse_tokens(f"{LINE}\n{line}\n".encode(), "tokens")
    assert "sha256sum" in caught.value.hint and "hunter2" not in f"{caught.value}{caught.value.as_json()}"


def test_the_command_that_hashes_a_secret_does_so() -> None:
    with pytest.raises(RefusedError) as caught:
        parse_tokens(b"hunter2 infer", "tokens")
    command = caught.value.hint.partition("prints: ")[2].partition(";")[0]
    run = ["sh", "-c", f"SECRET='hunter 2'; {command}"]
    assert f"sha256:{subprocess.check_output(run, text=True).strip()}" == hashed("hunter 2")


@pytest.mark.parametrize(
    "line",
    [
        hashed("a"),
        hashed("a")[:-1] + " infer",
        hashed("a") + "0 infer",
        hashed("a")[:-1] + "g infer",
        "sha256: infer",
        "sha256:hunter2 infer",
        hashed("a") + " admin",
        hashed("a") + " INFER",
        hashed("a") + " infer,",
        hashed("a") + " ,",
        hashed("a") + " infer, manage",
        hashed("a") + " infer a b",
        hashed("a") + " infer " + "a" * 65,
        hashed("a") + " infer a/b",
        hashed("a") + " infer \x1b[31m",
        hashed("") + " infer",
        hashed("first") + " manage twice",
    ],
)
def test_a_line_of_another_form_is_told_by_its_number_alone(line: str) -> None:
    with pytest.raises(InvalidError, match="tokens:3") as caught:
        parse_tokens(f"{hashed('first')} infer\n#\n{line}\n".encode(), "tokens")
    assert "hunter2" not in str(caught.value) and hashed("a")[7:] not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# only this\n", b"\xff\xfe", b"#\n" * 10_001 + LINE.encode()])
def test_a_file_without_a_token_or_of_another_kind_is_told(data: bytes) -> None:
    with pytest.raises(InvalidError):
        parse_tokens(data, "tokens")


def test_a_file_of_ten_thousand_tokens_is_taken_and_found_in_quickly() -> None:
    lines = [f"{hashed(str(number))} infer" for number in range(10_000)]
    found = parse_tokens("\n".join(lines).encode() + b"\n", "tokens")
    start = time.perf_counter()
    assert found.find("9999") is not None and found.find("10000") is None
    assert time.perf_counter() - start < 0.05


def test_a_huge_file_a_pipe_a_folder_or_nothing_is_told_at_once(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidError, match="1048577 bytes"):
        load_tokens(huge)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UntrustedError):
            load_tokens(path)
    with pytest.raises(MissingError):
        load_tokens(tmp_path / "nothing")


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(),
        st.lists(
            st.sampled_from([LINE, hashed("a"), "infer", "manage", ",", " ", "\n", "#", "\r", "\0", "\u2028", "name"])
        ).map(lambda parts: "".join(parts).encode()),
    )
)
def test_any_bytes_are_a_token_file_or_a_clear_error(data: bytes) -> None:
    try:
        found = parse_tokens(data, "tokens")
    except TilthError as error:
        assert error.why and error.hint
    else:
        assert len(found) > 0 and found.find("") is None


# JWTs.


@pytest.mark.parametrize(("name", "algorithm"), ASYMMETRIC)
def test_a_jwt_of_the_configured_key_is_accepted(load: Load, name: str, algorithm: str) -> None:
    verifier, text = load(name), signed(name, algorithm)
    assert verifier.verify(text) == Principal("ada", frozenset({"infer"})) == verifier.verify(text)


@pytest.mark.parametrize(("name", "algorithm"), ASYMMETRIC)
def test_one_changed_bit_anywhere_is_refused(load: Load, name: str, algorithm: str) -> None:
    verifier, text = load(name), signed(name, algorithm)
    for at in range(0, len(text), 7):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        assert why(verifier, changed)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["none"], {}])
def test_alg_none_is_no_signature(load: Load, name: str, algorithm: Any) -> None:
    verifier = load(name)
    header, claims = b64(as_json({"alg": algorithm})), b64(as_json(CLAIMS))
    for text in (f"{header}.{claims}.", f"{header}.{claims}.AA", f"{header}.{claims}", f"{header}.{claims}.{claims}"):
        assert why(verifier, text)
    assert "`alg`" in why(verifier, f"{header}.{claims}.AA")


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hs256_signed_with_the_public_key_is_refused(load: Load, name: str, algorithm: str) -> None:
    verifier, pem = load(name), public_pem(KEYS[name][0])
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for secret in (pem, pem.strip(), der, b""):
        kind = f"sha{algorithm[2:]}"
        text = token({"alg": algorithm}, CLAIMS, lambda m, s=secret, k=kind: hmac.digest(s, m, k))  # type: ignore[misc]
        assert "`alg`" in why(verifier, text)


@pytest.mark.parametrize(("name", "algorithm"), ASYMMETRIC)
@pytest.mark.parametrize(
    "other", ["RS256", "PS256", "ES256", "ES384", "EdDSA", "RS512", "PS512", "ES512", "ES256K", "Ed448"]
)
def test_the_algorithm_of_another_key_is_refused(load: Load, name: str, algorithm: str, other: str) -> None:
    if other not in KEYS[name][2]:
        sign = jws.JWSRegistry.algorithms[algorithm].sign
        text = token({"alg": other}, CLAIMS, lambda message: sign(message, KEYS[name][1]))
        assert "`alg`" in why(load(name), text)


def test_a_signature_under_the_other_rsa_padding_is_refused(load: Load) -> None:
    sign = jws.JWSRegistry.algorithms["PS256"].sign
    text = token({"alg": "RS256"}, CLAIMS, lambda message: sign(message, KEYS["rsa"][1]))
    assert "signature" in why(load("rsa"), text)


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, b"\x01", bytes(63), bytes(65), bytes(4096)])
@pytest.mark.parametrize(("name", "algorithm"), ASYMMETRIC)
def test_a_signature_of_zeros_or_of_another_length_is_refused(
    load: Load, name: str, algorithm: str, signature: bytes
) -> None:
    assert "signature" in why(load(name), token({"alg": algorithm}, CLAIMS, lambda _: signature))


def test_a_jwt_of_another_key_is_refused(verifier: JwtVerifier) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    assert "signature" in why(verifier, token({"alg": "EdDSA"}, CLAIMS, other.sign))


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://attacker.example/jwks.json"},
        {"jku": "file:///etc/passwd"},
        {"x5u": "https://attacker.example/cert.pem"},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(bytes(32))}},
        {"x5c": ["AAAA"]},
        {"crit": ["exp"]},
        {"crit": 5},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"zip": "DEF"},
        {"enc": "A128GCM"},
        {"cty": "JWT"},
        {"anything": 1},
        {"typ": "dpop+jwt"},
        {"typ": "logout+jwt"},
        {"typ": None},
        {"typ": ["JWT"]},
        {"kid": "../../../../dev/null"},
        {"kid": "/dev/null"},
        {"kid": "keys/mine"},
        {"kid": ".."},
        {"kid": "..\\mine"},
        {"kid": "a' UNION SELECT 'secret"},
        {"kid": "https://attacker.example/key"},
        {"kid": "a\0b"},
        {"kid": "a\n"},
        {"kid": ""},
        {"kid": "a" * 257},
        {"kid": None},
        {"kid": 1},
        {"kid": ["a"]},
    ],
)
def test_a_header_that_brings_points_to_or_extends_anything_is_refused(
    verifier: JwtVerifier, extra: dict[str, Any]
) -> None:
    assert verifier.verify(signed()).name == "ada"
    reason = why(verifier, signed(header=extra))
    assert "header" in reason or "`typ`" in reason or "`kid`" in reason


def test_an_embedded_key_does_not_verify_its_own_token(verifier: JwtVerifier) -> None:
    attacker = ed25519.Ed25519PrivateKey.generate()
    own = OKPKey.import_key(attacker.public_key()).as_dict()
    assert why(verifier, token({"alg": "EdDSA", "jwk": own}, CLAIMS, attacker.sign))


@pytest.mark.parametrize(
    "extra",
    [
        {"kid": "1f2e-3d_4c"},
        {"kid": base64.b64encode(b"\xff" * 32).decode()},
        {"kid": "a.b"},
        {"x5t": "abc", "x5t#S256": "def"},
        {"typ": "at+jwt"},
        {"typ": "application/AT+JWT"},
    ],
)
def test_what_common_issuers_put_in_a_header_is_accepted(verifier: JwtVerifier, extra: dict[str, Any]) -> None:
    assert verifier.verify(signed(header=extra)).name == "ada"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": ...}, "no `exp`"),
        ({"exp": None}, "not a number"),
        ({"exp": True}, "not a number"),
        ({"exp": str(NOW + 300)}, "not a number"),
        ({"exp": [NOW + 300]}, "not a number"),
        ({"exp": float("nan")}, "not a number"),
        ({"exp": float("inf")}, "not a number"),
        ({"exp": NOW - 30}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -(10**400)}, "expired"),
        ({"nbf": NOW + 31}, "`nbf` is in the future"),
        ({"nbf": 10**400}, "`nbf` is in the future"),
        ({"nbf": "0"}, "not a number"),
        ({"nbf": None}, "not a number"),
        ({"iat": NOW + 31}, "`iat` is in the future"),
        ({"iat": float("-inf")}, "not a number"),
        ({"iss": ...}, "issuer"),
        ({"iss": ISSUER + "/"}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"aud": ...}, "audience"),
        ({"aud": "other"}, "audience"),
        ({"aud": "tilth2"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["other", [AUDIENCE]]}, "audience"),
        ({"aud": {AUDIENCE: 1}}, "audience"),
        ({"sub": 1}, "`sub`"),
        ({"sub": ""}, "`sub`"),
        ({"sub": "a\nforged log line"}, "`sub`"),
        ({"sub": "\x1b[31m"}, "`sub`"),
        ({"sub": "a" * 257}, "`sub`"),
        ({"scope": 1}, "`scope`"),
        ({"scope": None}, "`scope`"),
        ({"scp": {"infer": 1}}, "`scp`"),
        ({"scp": ["infer", 1]}, "`scp`"),
    ],
)
def test_a_signed_token_that_is_not_for_here_and_today_is_refused(
    verifier: JwtVerifier, claims: dict[str, Any], reason: str
) -> None:
    assert reason in why(verifier, signed(**claims))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 29},
        {"exp": NOW + 0.5},
        {"exp": 10**400},
        {"nbf": NOW + 30, "iat": NOW + 30},
        {"nbf": 0, "iat": -1},
        {"aud": ["other", AUDIENCE]},
        {"sub": "Ada Lovelace, Zürich"},
    ],
)
def test_the_leeway_and_the_forms_of_claims_are_kept(verifier: JwtVerifier, claims: dict[str, Any]) -> None:
    assert verifier.verify(signed(**claims)).scopes == {"infer"}


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "infer manage  metrics"}, SCOPES),
        ({"scope": ..., "scp": ["manage", "other"]}, {"manage"}),
        ({"scope": "infer", "scp": "metrics"}, {"infer", "metrics"}),
        ({"scope": ["infer"]}, {"infer"}),
        ({"scope": "INFER infer,manage inferx *"}, set()),
        ({"scope": ""}, set()),
        ({"scope": ..., "role": "infer", "scopes": ["manage"]}, set()),
    ],
)
def test_scopes_that_are_not_known_count_for_nothing(
    verifier: JwtVerifier, claims: dict[str, Any], scopes: set[str]
) -> None:
    assert verifier.verify(signed(**claims)).scopes == scopes


def test_a_token_for_another_audience_is_refused_where_none_is_configured(load: Load) -> None:
    verifier = load(audience=None, issuer=None)
    assert verifier.verify(signed(aud=..., iss="anyone", sub=...)).name == "jwt"
    for audience in (AUDIENCE, [None], None, []):
        assert "audience" in why(verifier, signed(aud=audience))


@pytest.mark.parametrize("options", [{"issuer": ""}, {"audience": ""}])
def test_an_empty_issuer_or_audience_is_not_taken_for_a_check(load: Load, options: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="empty"):
        load(**options)


def test_a_long_token_is_refused_before_it_is_read(verifier: JwtVerifier) -> None:
    fitting = signed(padding="a" * 5700)
    assert 7500 < len(fitting) <= 8192 and verifier.verify(fitting)
    for text in (signed(padding="a" * 6500), "." * 8193, "a" * 10**7, "é" * 10):
        assert "8192 bytes" in why(verifier, text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + ".",
        lambda text: "." + text,
        lambda text: text + "=",
        lambda text: text + "\n",
        lambda text: text.replace(".", "..", 1),
        lambda text: text.replace(".", " .", 1),
        lambda text: text.replace(".", "=.", 1),
        lambda text: text.rpartition(".")[0],
        lambda text: text.rpartition(".")[0] + ".",
        lambda text: "...." + text,
        lambda text: text[:-1] + chr(ord(text[-1]) + 1),  # the two bits that a lax decoder drops
        lambda text: text[:20] + "\n" + text[20:],
        lambda text: text[:20] + "+" + text[21:],
        lambda _: "",
        lambda _: "..",
        lambda _: "\0",
    ],
)
def test_a_token_in_any_other_spelling_is_refused(verifier: JwtVerifier, change: Callable[[str], str]) -> None:
    assert why(verifier, change(signed()))


@pytest.mark.parametrize(
    "data", [b"[" * 5000, b'{"a":' * 900, b"5", b"null", b'"alg"', b'["alg"]', b"{", b"\xff", b"1" * 5000]
)
def test_json_that_is_deep_or_no_object_is_refused(verifier: JwtVerifier, data: bytes) -> None:
    assert why(verifier, signed_raw(data, CLAIMS))
    assert why(verifier, signed_raw({"alg": "EdDSA"}, data))


def test_a_remembered_token_expires_all_the_same(load: Load) -> None:
    clock = Clock()
    verifier, text = load(clock=clock), signed(exp=NOW + 10)
    assert verifier.verify(text) is verifier.verify(text), "it is remembered"
    clock.now_s = NOW + 39.9
    assert verifier.verify(text)
    clock.now_s = NOW + 40
    assert "expired" in why(verifier, text)


def test_many_tokens_do_not_fill_the_memory_and_forged_ones_are_not_kept(load: Load) -> None:
    verifier = load()
    for number in range(4200):
        verifier.verify(signed(jti=str(number)))
        assert len(verifier._proved) <= 4096
    kept = len(verifier._proved)
    assert why(verifier, signed(exp=1)) and why(verifier, signed() + "A") and len(verifier._proved) == kept


def test_threads_that_verify_at_once_all_get_their_own_answer(verifier: JwtVerifier) -> None:
    wrong: list[str] = []

    def work(start: int) -> None:
        for number in range(start, start + 60):
            name = f"user-{number % 90}"
            if verifier.verify(signed(sub=name)).name != name:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", KEYS)
def test_a_private_key_given_by_mistake_is_refused_with_what_to_do(load: Load, name: str) -> None:
    locked = serialization.BestAvailableEncryption(b"x")
    kinds: list[bytes] = [private_pem(KEYS[name][0]), private_pem(KEYS[name][0], locked=locked)]
    if name != "ed25519":
        kinds.append(private_pem(KEYS[name][0], serialization.PrivateFormat.TraditionalOpenSSL))
    for data in (*kinds, public_pem(KEYS[name][0]) + kinds[0]):
        with pytest.raises(RefusedError, match="is a private key") as caught:
            load(data=data)
        assert "openssl pkey" in caught.value.hint and "-pubout" in caught.value.hint


def test_a_key_of_a_kind_that_is_not_used_is_refused(load: Load) -> None:
    others = (
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        dsa.generate_private_key(2048),
    )
    for key in others:
        with pytest.raises(UnsupportedError, match="is not used here"):
            load(data=public_pem(key))


def test_a_short_rsa_key_is_refused(load: Load) -> None:
    with pytest.raises(RefusedError, match="1024 bits"):
        load(data=public_pem(rsa.generate_private_key(65537, 1024)))  # noqa: S505 - it is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b'{"kty":"oct","k":"AAAA"}',
        b"ssh-ed25519 AAAA",
        public_pem(ED) + public_pem(P256),
        public_pem(ED)[:60],
        b"\0" * (64 << 10),
        b"\0" * ((64 << 10) + 1),
    ],
)
def test_what_is_not_one_public_key_is_told(load: Load, data: bytes) -> None:
    with pytest.raises(InvalidError):
        load(data=data)


def test_a_key_file_that_others_may_write_is_refused(load: Load, tmp_path: Path) -> None:
    load()
    (tmp_path / "public.pem").chmod(0o664)
    with pytest.raises(RefusedError, match="other users may write"):
        load_jwt_key(tmp_path / "public.pem", issuer=None, audience=None)


def test_a_server_without_jwts_needs_no_library_and_one_with_them_says_which(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(public_pem(ED))
    (tmp_path / "public.pem").chmod(0o600)
    code = f"""
import sys, tilth.serve.access, tilth.core.host
assert not {{"joserfc", "cryptography"}} & {{name.partition(".")[0] for name in sys.modules}}
sys.modules["joserfc"] = None
try:
    tilth.serve.jwt.load_jwt_key({str(tmp_path / "public.pem")!r}, issuer=None, audience=None)
except tilth.core.errors.MissingError as error:
    print(error.hint)
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed == "run `pip install 'tilth[serve]'`\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "jku", "crit"]), JSON | st.sampled_from(["EdDSA", "JWT"]), max_size=4
)
BODIES = st.dictionaries(
    st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "scope", "scp"]),
    JSON | st.sampled_from([NOW, NOW + 100, ISSUER, AUDIENCE, "infer", ["infer"]]),
)


@settings(max_examples=200)
@given(header=HEADERS | JSON, claims=BODIES | JSON, fixed=st.booleans())
def test_whatever_an_issuer_signs_is_a_principal_or_a_refusal(header: Any, claims: Any, fixed: bool) -> None:
    verifier = JwtVerifier(
        {"EdDSA": lambda message, signature: ED.sign(message) == signature},
        issuer=ISSUER,
        audience=None,
        clock=Clock(),
    )
    if fixed and isinstance(claims, dict):
        header, claims = {"alg": "EdDSA"}, {"iss": ISSUER, "exp": NOW + 9, **claims}
    try:
        found = verifier.verify(signed_raw(header, claims))
    except RefusedError as error:
        assert error.why
    else:
        assert found.scopes <= SCOPES and claims["iss"] == ISSUER and header["alg"] == "EdDSA" and "aud" not in claims


@settings(max_examples=200)
@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_.=-]{0,60}", fullmatch=True)))
def test_any_text_is_refused_as_a_jwt(text: str) -> None:
    verifier = JwtVerifier({"EdDSA": lambda message, signature: True}, issuer=None, audience=None, clock=Clock())
    assert why(verifier, text)
