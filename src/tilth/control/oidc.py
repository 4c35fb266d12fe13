"""Sign-in at the console through an identity provider: OpenID Connect, Authorization Code with PKCE.

What an answer of the provider must pass, in this order; the numbers are repeated in the code:

1. `state` is one that was made here, not long ago, for this browser, and not used before (RFC 6749, section 10.12);
2. `iss`, when given, is the provider's (RFC 9207): an answer of another one is not mixed in;
3. the code is exchanged at the provider's own address, with the verifier of RFC 7636;
4. the ID token is signed by a key of the provider with an asymmetric algorithm (OpenID Connect Core, section 3.1.3.7);
5. `iss`, `aud`, `azp`, `exp`, `iat` and `nonce` are right.

Whoever comes through it for the first time becomes a user that is in no project. A user that was made here is never
taken for one of the provider's because the name is the same.
"""

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tilth.client.errors import ConflictError, UnknownError
from tilth.core.address import Address
from tilth.core.errors import InvalidError, UnavailableError

#: The path that a provider sends browsers back to.
CALLBACK = "/console/oidc"
_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
_SIGN_IN_S, _KEYS_S, _LEEWAY_S, _ANSWER_S = 600.0, 300.0, 30, 10.0
_MOST_BYTES, _MOST_PENDING = 1 << 20, 1024
_CODE = re.compile(r"[ -~]{1,2048}")
_UNSOUND = re.compile(r"[^a-z0-9._@-]+")


@dataclass(frozen=True)
class Config:
    """A provider and what it knows us as. `callback` is the whole address that it sends browsers back to.

    `claim` is the one that names a user; `domains`, when there are any, are those of e-mail addresses that are let in.
    """

    issuer: str
    client_id: str
    client_secret: str
    callback: str
    claim: str = "preferred_username"
    domains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """Who signed in: `subject` is the issuer and its own id of the user, `name` one that a user can have here."""

    subject: str
    name: str


@dataclass(frozen=True)
class _Pending:
    browser: str
    nonce: str
    verifier: str
    then: str
    until: float


@dataclass
class _Known:
    """What the provider tells of itself, and its keys, until they are asked for again."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    keys: KeySet | None = None
    until: float = 0.0


class Oidc:
    """Sign-in through one provider.

    Raises:
        InvalidError: the configuration would send secrets in the clear, or is incomplete.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        check(config)
        self._config, self._clock = config, clock
        self._pending: dict[str, _Pending] = {}
        self._known = _Known()
        self._client = httpx.AsyncClient(timeout=_ANSWER_S, follow_redirects=False, trust_env=True)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def begin(self, then: str) -> tuple[str, str]:
        """Return where to send a browser, and a secret for a cookie that ties the answer to it.

        `then` is the path of ours to go to afterwards.

        Raises:
            UnavailableError: the provider does not answer.
        """
        facts = (await self._provider()).facts
        state, browser, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(4))
        self._forget_old()
        self._pending[state] = _Pending(_hashed(browser), nonce, verifier, then, self._clock() + _SIGN_IN_S)
        asked = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": self._config.callback,
            "scope": "openid profile email",
            "state": state,
            "nonce": nonce,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        join = "&" if "?" in facts["authorization_endpoint"] else "?"
        return f"{facts['authorization_endpoint']}{join}{urlencode(asked)}", browser

    async def finish(self, answer: Mapping[str, str], browser: str) -> tuple[Identity, str]:
        """Return who signed in and where to go, from what the browser brought back and its cookie.

        Raises:
            UnknownError: the answer is not one to a sign-in that was begun here, or says that it failed.
            UnavailableError: the provider does not answer.
        """
        # 1
        pending = self._pending.pop(answer.get("state", ""), None)
        if pending is None or pending.until < self._clock():
            raise _refused("this sign-in was not begun here, or took too long")
        if not secrets.compare_digest(pending.browser, _hashed(browser)):
            raise _refused("it was begun in another browser")
        # 2
        if answer.get("iss", self._config.issuer) != self._config.issuer:
            raise _refused("the answer comes from another provider")
        if "error" in answer:
            raise _refused(f"the provider says: {ascii(answer['error'][:100])}")
        code = answer.get("code", "")
        if not _CODE.fullmatch(code):
            raise _refused("the answer has no code")
        claims = await self._claims(code, pending)
        return self._identity(claims), pending.then

    async def _claims(self, code: str, pending: _Pending) -> Mapping[str, Any]:
        known = await self._provider()
        # 3
        told = await self._fetched(
            "POST",
            known.facts["token_endpoint"],
            data={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._config.callback,
                "client_id": self._config.client_id,
                "code_verifier": pending.verifier,
            },
            auth=(self._config.client_id, self._config.client_secret) if self._config.client_secret else None,
        )
        token = told.get("id_token")
        if not isinstance(token, str):
            raise _refused("the provider sent no ID token")
        return check_token(token, known.keys or KeySet([]), self._config, pending.nonce, self._clock())

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        given = str(claims.get(self._config.claim) or claims.get("email") or claims["sub"])
        if self._config.domains:
            email, verified = str(claims.get("email", "")), claims.get("email_verified", True)
            if verified is not True or email.rpartition("@")[2].lower() not in self._config.domains:
                raise _refused("the account is of a domain that is not let in")
        name = _UNSOUND.sub("-", given.lower())[:64].strip("-._@") or "user"
        return Identity(f"{self._config.issuer} {str(claims['sub'])[:255]}", name)

    # -- the provider

    async def _provider(self) -> _Known:
        if self._known.until < self._clock():
            facts = await self._fetched("GET", f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration")
            check_facts(facts, self._config)
            try:
                keys = KeySet.import_key_set(await self._fetched("GET", facts["jwks_uri"]))  # type: ignore[arg-type]
            except (JoseError, KeyError, TypeError, ValueError):
                raise UnavailableError("the identity provider's keys are not understood") from None
            self._known = _Known(facts, keys, self._clock() + _KEYS_S)
        return self._known

    async def _fetched(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        made = bytearray()
        try:
            async with self._client.stream(method, url, **more) as answer:
                async for block in answer.aiter_bytes():
                    made += block
                    if len(made) > _MOST_BYTES:
                        raise UnavailableError("the identity provider sends too much")
            told = json.loads(made)
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise UnavailableError(
                "the identity provider does not answer as it should",
                why=f"{type(error).__name__} at `{urlsplit(url).netloc}`",
                hint="sign in with a token, or try again",
            ) from None
        if answer.status_code != 200 or not isinstance(told, dict):
            raise UnavailableError(
                "the identity provider refuses",
                why=f"status {answer.status_code} at `{urlsplit(url).path}`",
                hint="are client id, secret and callback address those that it knows?",
            )
        return told

    def _forget_old(self) -> None:
        now = self._clock()
        self._pending = {state: one for state, one in self._pending.items() if one.until > now}
        while len(self._pending) >= _MOST_PENDING:
            del self._pending[next(iter(self._pending))]


def check(config: Config) -> None:
    """Return when a configuration is one that can be used.

    Raises:
        InvalidError: it is not.
    """
    if not config.client_id or not config.issuer:
        raise InvalidError("a provider needs an issuer and a client id", hint="give --oidc-issuer and --oidc-client-id")
    for url in (config.issuer, config.callback):
        if not _is_safe(url):
            raise InvalidError(
                f"`{ascii(url[:200])[1:-1]}` is not an address for signing in",
                why="it is https, or http on this machine, without user, query and fragment",
            )


def check_facts(facts: Mapping[str, Any], config: Config) -> None:
    """Return when what a provider tells of itself can be used.

    Raises:
        UnavailableError: it is another issuer, lacks what is needed, or would send secrets in the clear.
    """
    wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    if facts.get("issuer") != config.issuer:
        raise UnavailableError("the identity provider names another issuer", why=ascii(str(facts.get("issuer"))[:200]))
    for name in wanted:
        if not isinstance(facts.get(name), str) or not _is_safe(facts[name], query=True):
            raise UnavailableError(f"the identity provider has no sound `{name}`")


def check_token(token: str, keys: KeySet, config: Config, nonce: str, now: float) -> Mapping[str, Any]:
    """Return the claims of an ID token that is for us.

    Raises:
        UnknownError: it is not.
    """
    try:
        # 4
        claims = jwt.decode(token, keys, algorithms=list(_ALGORITHMS)).claims
    except (JoseError, ValueError, KeyError, TypeError):
        raise _refused("the ID token is not signed by the provider") from None
    # 5
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    sound = (
        claims.get("iss") == config.issuer
        and config.client_id in audiences
        and claims.get("azp", config.client_id) == config.client_id
        and (len(audiences) == 1 or "azp" in claims)
        and _is_time(claims.get("exp"))
        and claims["exp"] > now - _LEEWAY_S
        and _is_time(claims.get("iat"))
        and claims["iat"] < now + _LEEWAY_S
        and isinstance(claims.get("sub"), str)
        and claims["sub"] != ""
    )
    if not sound or not secrets.compare_digest(str(claims.get("nonce", "")), nonce):
        raise _refused("the ID token is not for this sign-in")
    return claims


def taken(name: str) -> ConflictError:
    """Return what is said to somebody whose name is that of a user who is not of the provider."""
    return ConflictError(
        f"the name `{name}` is taken",
        why="a user of this name does not come from the identity provider",
        hint="ask an administrator",
    )


def _is_time(value: object) -> bool:
    return type(value) in (int, float)


def _is_safe(url: str, *, query: bool = False) -> bool:
    parts = urlsplit(url[:2048])
    if not parts.hostname or parts.username or parts.fragment or (parts.query and not query):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and Address(parts.hostname, 0).loopback)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def _refused(why: str) -> UnknownError:
    return UnknownError("you are not signed in", why=why, hint="begin again at the sign-in page")
