"""Sign-in through an identity provider: no answer gets in that this browser did not ask this provider for."""

import asyncio
import base64
import hmac
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tilth.client.errors import ConflictError, UnknownError
from tilth.control.access import Principal
from tilth.control.change import Change
from tilth.control.oidc import Config, Identity, Oidc, check, check_facts, check_token
from tilth.control.records import principals, sessions, users
from tilth.control.secret import hashed
from tilth.control.store.database import Database
from tilth.core.errors import InvalidError, TilthError, UnavailableError

CALLBACK = "http://127.0.0.1:9/console/oidc"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
KEYS = KeySet([KEY])
CONFIG = Config("https://id.example", "tilth", "hush", CALLBACK)
NOW = 1_800_000_000.0


def config(provider: str, **more: Any) -> Config:
    issuer = httpx.get(f"{provider}/.well-known/openid-configuration").json()["issuer"]
    return replace(Config(issuer, "tilth", "hush", CALLBACK), **more)


def signed_in_at(url: str, subject: str = "7") -> dict[str, str]:
    """Do what a person does at the provider, and return what the browser brings back."""
    answer = httpx.post(url, data={"sub": subject}, follow_redirects=False)
    back = answer.headers["location"]
    assert back.startswith(CALLBACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


def run(work: Callable[[Oidc], Any], given: Config, **more: Any) -> Any:
    async def all_of() -> Any:
        oidc = Oidc(given, **more)
        try:
            return await work(oidc)
        finally:
            await oidc.close()

    return asyncio.run(all_of())


def test_a_person_comes_in_with_the_name_that_the_provider_tells(provider: str) -> None:
    async def work(oidc: Oidc) -> Any:
        url, browser = await oidc.begin("/console/models")
        asked = parse_qs(urlsplit(url).query)
        assert asked["code_challenge_method"] == ["S256"] and "code_verifier" not in asked
        return await oidc.finish(signed_in_at(url), browser)

    identity, then = run(work, config(provider))
    assert identity.name == "ann-lee" and identity.subject.endswith(" 7") and then == "/console/models"


def test_an_answer_is_good_once_in_one_browser_and_not_for_long(provider: str) -> None:
    clock = [NOW]

    async def work(oidc: Oidc) -> None:
        url, browser = await oidc.begin("/")
        answer = signed_in_at(url)
        with pytest.raises(UnknownError, match="not signed in"):
            await oidc.finish({**answer, "state": "x"}, browser)
        with pytest.raises(UnknownError) as other:
            await oidc.finish(answer, "another")
        assert "another browser" in other.value.why
        with pytest.raises(UnknownError):
            await oidc.finish(answer, browser)
        url, browser = await oidc.begin("/")
        answer = signed_in_at(url)
        clock[0] += 601
        with pytest.raises(UnknownError) as late:
            await oidc.finish(answer, browser)
        assert "too long" in late.value.why

    run(work, config(provider), clock=lambda: clock[0])


def test_a_code_of_another_sign_in_is_refused(provider: str) -> None:
    async def work(oidc: Oidc) -> None:
        url, browser = await oidc.begin("/")
        other, _ = await oidc.begin("/")
        mixed = {**signed_in_at(url), "code": signed_in_at(other)["code"]}
        # By the verifier where the provider looks at it, and by the nonce in any case.
        with pytest.raises(TilthError):
            await oidc.finish(mixed, browser)

    run(work, config(provider))


def test_an_answer_of_another_provider_or_an_error_is_not_taken(provider: str) -> None:
    async def work(oidc: Oidc) -> None:
        for more, words in (
            ({"iss": "https://evil.example"}, "another provider"),
            ({"error": "access_denied"}, "denied"),
        ):
            url, browser = await oidc.begin("/")
            with pytest.raises(UnknownError) as caught:
                await oidc.finish({**signed_in_at(url), **more}, browser)
            assert words in caught.value.why
        url, browser = await oidc.begin("/")
        with pytest.raises(UnknownError):
            await oidc.finish({"state": signed_in_at(url)["state"]}, browser)

    run(work, config(provider))


def test_a_domain_that_is_not_let_in_stays_out(provider: str) -> None:
    async def work(oidc: Oidc) -> Any:
        url, browser = await oidc.begin("/")
        return await oidc.finish(signed_in_at(url), browser)

    assert run(work, config(provider, domains=("example.org",)))[0].name == "ann-lee"
    with pytest.raises(UnknownError) as caught:
        run(work, config(provider, domains=("example.com",)))
    assert "domain" in caught.value.why


def test_sign_ins_that_nobody_finishes_do_not_pile_up(provider: str) -> None:
    async def work(oidc: Oidc) -> int:
        for _ in range(1100):
            await oidc.begin("/")
        return len(oidc._pending)

    assert run(work, config(provider)) <= 1024


def test_a_provider_that_does_not_answer_is_said_to_be_at_fault() -> None:
    async def work(oidc: Oidc) -> Any:
        return await oidc.begin("/")

    with pytest.raises(UnavailableError, match="identity provider"):
        run(work, replace(CONFIG, issuer="http://127.0.0.1:1"))


# -- ID tokens


def token(claims: dict[str, Any], key: Any = KEY, alg: str = "RS256") -> str:
    whole = {"iss": CONFIG.issuer, "aud": "tilth", "sub": "7", "exp": NOW + 60, "iat": NOW, "nonce": "n"} | claims
    header = {"alg": alg, "kid": "one"}
    return jwt.encode(header, {name: value for name, value in whole.items() if value is not None}, key, [alg])


def test_a_sound_token_is_taken() -> None:
    assert check_token(token({}), KEYS, CONFIG, "n", NOW)["sub"] == "7"
    assert check_token(token({"aud": ["tilth", "x"], "azp": "tilth"}), KEYS, CONFIG, "n", NOW)["sub"] == "7"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["tilth", "other"]},
        {"azp": "other"},
        {"exp": NOW - 31},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"iat": NOW + 31},
        {"iat": None},
        {"nonce": "m"},
        {"nonce": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_this_sign_in_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(UnknownError):
        check_token(token(claims), KEYS, CONFIG, "n", NOW)


def test_a_token_of_another_key_is_refused() -> None:
    other = RSAKey.generate_key(2048, {"kid": "one"})
    with pytest.raises(UnknownError):
        check_token(token({}, other), KEYS, CONFIG, "n", NOW)


def test_alg_none_and_hs256_with_the_public_key_are_refused() -> None:
    unsigned = re.sub(r"^[^.]+", "eyJhbGciOiJub25lIn0", token({})).rpartition(".")[0] + "."
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').decode().rstrip("=")
    signed = f"{head}.{token({}).split('.')[1]}"
    mac = hmac.digest(KEY.as_pem(private=False), signed.encode(), "sha256")
    confused = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    for forged in (unsigned, confused, "", "a.b.c", "." * 2, "é.é.é"):
        with pytest.raises(UnknownError):
            check_token(forged, KEYS, CONFIG, "n", NOW)


# -- configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://id.example"},
        {"issuer": "https://u:p@id.example"},
        {"issuer": "https://id.example/#x"},
        {"issuer": "file:///etc/passwd"},
        {"issuer": ""},
        {"client_id": ""},
        {"callback": "http://console.example/console/oidc"},
        {"callback": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_a_configuration_that_sends_secrets_in_the_clear_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidError):
        check(replace(CONFIG, **wrong))


FACTS = {
    "issuer": CONFIG.issuer,
    "authorization_endpoint": "https://id.example/auth",
    "token_endpoint": "https://id.example/token",
    "jwks_uri": "https://id.example/keys",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://id.example/token"},
        {"token_endpoint": "http://169.254.169.254/latest"},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": None},
        {"jwks_uri": 7},
    ],
    ids=str,
)
def test_what_a_provider_tells_of_itself_is_not_followed_anywhere(wrong: dict[str, Any]) -> None:
    check_facts(FACTS, CONFIG)
    with pytest.raises(UnavailableError):
        check_facts({**FACTS, **wrong}, CONFIG)


# -- users


def entered(database: Database, identity: Identity) -> Principal:
    system = Principal("system", "system", is_admin=True)
    with database.write() as connection:
        secret = sessions.of_external(Change(connection, system), identity)
    with database.read() as connection:
        return principals.of_session(connection, hashed(secret) or "", 0)


def test_who_comes_for_the_first_time_is_a_user_in_no_project(database: Database) -> None:
    first = entered(database, Identity("https://id.example 7", "ann"))
    again = entered(database, Identity("https://id.example 7", "renamed"))
    assert first == again and first.name == "ann"
    assert not first.is_admin and first.roles == {} and first.readable() == []


def test_nobody_becomes_a_user_of_the_same_name_that_was_made_here(database: Database) -> None:
    with database.write() as connection:
        users.make(Change(connection, Principal("system", "system", is_admin=True)), "admin", is_admin=True)
    with pytest.raises(ConflictError, match="taken"):
        entered(database, Identity("https://id.example 8", "admin"))
    with pytest.raises(ConflictError, match="taken"):
        entered(database, Identity("https://other.example 7", "admin"))


def test_a_disabled_user_stays_out_and_its_session_ends(database: Database) -> None:
    system = Principal("system", "system", is_admin=True)
    with database.write() as connection:
        secret = sessions.of_external(Change(connection, system), Identity("https://id.example 7", "ann"))
    from tilth.client.shapes.who import UserChange

    with database.write() as connection:
        users.alter(Change(connection, system), "ann", UserChange(disabled=True), None)
    with pytest.raises(TilthError):
        entered(database, Identity("https://id.example 7", "ann"))
    with database.read() as connection, pytest.raises(UnknownError):
        principals.of_session(connection, hashed(secret) or "", 0)
