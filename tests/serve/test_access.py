"""Requests without a credential, with a wrong one, and with one that is for something else."""

import hashlib
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from tilth.core.errors import RefusedError
from tilth.serve.access import Access, ForbiddenError, UnauthenticatedError
from tilth.serve.jwt import load_jwt_key
from tilth.serve.tokens import SCOPES, TokenFile, new_token, parse_tokens

READER, READER_LINE = new_token(["infer"], "reader")
ADMIN, ADMIN_LINE = new_token(["manage"], "admin")
METER, METER_LINE = new_token(["metrics"], "meter")
FILE = parse_tokens("\n".join((READER_LINE, ADMIN_LINE, METER_LINE)).encode(), "tokens")
ACCESS = Access(FILE)
PRIVATE = Ed25519PrivateKey.generate()
KEY = OKPKey.import_key(PRIVATE)


@pytest.fixture
def both(tmp_path: Path) -> Access:
    public = PRIVATE.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "public.pem").write_bytes(public)
    return Access(FILE, load_jwt_key(tmp_path / "public.pem", issuer="https://id.example", audience=None))


def signed(**claims: object) -> str:
    claims = {"iss": "https://id.example", "exp": int(time.time()) + 60, "sub": "ada", "scope": "infer", **claims}
    return jwt.encode({"alg": "Ed25519"}, claims, KEY, registry=JWSRegistry(algorithms=["Ed25519"]))


def refusal(access: Access, authorization: str | None, scope: str = "infer") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        access.check(authorization, scope)
    return caught.value


def test_without_tokens_and_keys_everyone_may_do_everything() -> None:
    access = Access(None, None)
    assert access.open
    for scope in SCOPES:
        assert access.check(None, scope).scopes == SCOPES == access.check("nonsense", scope).scopes


def test_a_token_opens_what_it_is_for() -> None:
    assert not ACCESS.open
    assert ACCESS.check(f"Bearer {READER}", "infer").name == "reader"
    assert ACCESS.check(f"bEARER {ADMIN}", "manage").name == "admin"
    assert ACCESS.check(f"bearer {METER}", "metrics").name == "meter"


@pytest.mark.parametrize(
    ("secret", "scope"),
    [
        (READER, "manage"),
        (READER, "metrics"),
        (ADMIN, "infer"),
        (ADMIN, "metrics"),
        (METER, "infer"),
        (METER, "manage"),
    ],
)
def test_no_scope_implies_another(secret: str, scope: str) -> None:
    error = refusal(ACCESS, f"Bearer {secret}", scope)
    assert type(error) is ForbiddenError and scope in error.what and secret not in str(error)


@pytest.mark.parametrize("scope", ["", "admin", "INFER", "infer,manage", "*"])
def test_a_scope_that_does_not_exist_opens_nothing(scope: str) -> None:
    assert type(refusal(ACCESS, f"Bearer {READER}", scope)) is ForbiddenError


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        READER,
        f"Bearer  {READER}",
        f" Bearer {READER}",
        f"Bearer {READER} ",
        f"Bearer {READER}\n",
        f"Bearer\t{READER}",
        f"Bearer {READER}\0",
        f"Bearer {READER},Bearer {READER}",
        f"Bearer {READER} {READER}",
        f"Bearer {READER}=",
        f"Bearer {READER[:-1]}",
        f"Bearer {READER.upper()}",
        f"Bearer {READER}x",
        f"Basic {READER}",
        f"Token {READER}",
        f"Bearer: {READER}",
        "Bearer ünïcode",
        "Bearer \ud800",
        "Bearer " + READER_LINE.split()[0],
        "Bearer " + READER_LINE[7:71],
        "Bearer " + "a" * 8193,
        "Bearer " + "=" * 8000,
        "Bearer" * 10_000,
        "Bearer a.b.c",
    ],
)
def test_no_credential_or_a_wrong_one_is_refused(authorization: str | None) -> None:
    for scope in SCOPES:
        assert type(refusal(ACCESS, authorization, scope)) is UnauthenticatedError


def test_what_was_presented_is_never_repeated(both: Access) -> None:
    tokens = (
        signed(exp=1),
        signed(iss="x"),
        signed(scope="metrics"),
        READER + "x",
        "secret-of-mine",
        "a.b.secret-of-mine",
    )
    for access in (ACCESS, both):
        for token in tokens:
            for header in (f"Bearer {token}", f"Basic {token}", token, f"Bearer {token} x"):
                error = refusal(access, header)
                shown = f"{error} {error!r} {error.as_json()} {error.__cause__} {error.args}"
                assert not any(part in shown for part in token.split(".") if len(part) > 3)
                assert error.__suppress_context__ or error.__context__ is None


def test_a_jwt_and_a_token_open_the_same_door(both: Access) -> None:
    assert both.check(f"Bearer {READER}", "infer").name == "reader"
    assert both.check(f"Bearer {signed()}", "infer").name == "ada"
    assert type(refusal(both, f"Bearer {signed()}", "manage")) is ForbiddenError
    assert type(refusal(both, f"Bearer {signed(exp=1)}")) is UnauthenticatedError
    assert type(refusal(both, "Bearer nonsense")) is UnauthenticatedError
    assert type(refusal(ACCESS, f"Bearer {signed()}")) is UnauthenticatedError


def test_a_jwt_without_scopes_is_known_and_may_do_nothing(both: Access) -> None:
    for scope in SCOPES:
        error = refusal(both, f"Bearer {signed(scope='openid profile')}", scope)
        assert type(error) is ForbiddenError and "no scope" in error.why


def test_an_empty_set_of_tokens_is_not_an_open_door() -> None:
    access = Access(TokenFile({}))
    assert not access.open
    assert type(refusal(access, None)) is UnauthenticatedError
    assert type(refusal(access, f"Bearer {READER}")) is UnauthenticatedError


@settings(max_examples=200)
@given(st.one_of(st.text(), st.from_regex(r"Bearer [A-Za-z0-9._~+/-]{0,80}=*", fullmatch=True)))
def test_no_header_opens_the_door_by_chance(authorization: str) -> None:
    assert type(refusal(ACCESS, authorization)) is UnauthenticatedError


def test_the_hash_in_the_file_is_not_a_credential() -> None:
    hashed = hashlib.sha256(READER.encode()).hexdigest()
    assert READER_LINE.startswith(f"sha256:{hashed} ")
    assert type(refusal(ACCESS, f"Bearer {hashed}")) is UnauthenticatedError
