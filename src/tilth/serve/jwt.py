"""JWTs that one public key proves.

What a JWT must pass, in this order; the numbers are repeated in the code:

1. it is ASCII and at most 8 KiB;
2. it is three parts of strict base64url, and its header a JSON object (RFC 7515, section 7.1);
3. the header has no parameter that brings, points to or extends anything: only `alg`, `typ`, `kid` and thumbprints;
4. `typ`, when given, is that of an access token (RFC 8725, section 3.11), and `kid`, which is never used, is no path;
5. `alg` is one of those that the type of the key allows (RFC 8725, section 3.1);
6. the signature is good;
7. `exp` is there and not past, `nbf` and `iat` are not in the future, each with 30 s of leeway;
8. `iss` and `aud` are those configured; `aud` without a configured audience is for somebody else (RFC 7519, 4.1.3).

Not checked: whether a JWT was revoked before it expires, and whether it was presented before.
"""

import base64
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tilth.core.errors import InvalidError, MissingError, RefusedError, UnsupportedError
from tilth.serve.tokens import MAX_TOKEN_BYTES, Principal, granted, read_guarded

LEEWAY_S = 30

_MAX_KEY_BYTES = 64 << 10
_MAX_CACHED = 4096
_MIN_RSA_BITS = 2048
_HEADER = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
#: A SHA-256 in plain base64, as some issuers have it, or anything that has no slash.
_KEY_ID = re.compile(r"[A-Za-z0-9+/]{43}=|(?!.*\.\.)[A-Za-z0-9._~+=:@-]{1,256}")


class JwtVerifier:
    """JWTs whose signature one public key proves; what was proved is remembered by the SHA-256 of the token.

    `signatures` verifies a message and a signature by the name of an algorithm. It may be used by several threads.
    """

    def __init__(
        self,
        signatures: Mapping[str, Callable[[bytes, bytes], bool]],
        *,
        issuer: str | None,
        audience: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signatures = signatures
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._proved: dict[bytes, tuple[Principal, float]] = {}
        self._lock = threading.Lock()

    def verify(self, token: str) -> Principal:
        """Return whom a JWT names, with those of its scopes that are known here; there may be none.

        Raises:
            RefusedError: it is not accepted; `why` quotes nothing of it.
        """
        # 1: before any of it is read.
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _not_accepted(f"it is beyond {MAX_TOKEN_BYTES} bytes, or not ASCII")
        name = hashlib.sha256(token.encode()).digest()
        principal, until = self._proved.get(name, (None, 0))
        if principal is not None:
            if until <= self._clock():
                raise _not_accepted("it has expired")
            return principal
        principal, until = self._prove(token)
        with self._lock:
            while len(self._proved) >= _MAX_CACHED:
                del self._proved[next(iter(self._proved))]
            self._proved[name] = principal, until
        return principal

    def _prove(self, token: str) -> tuple[Principal, float]:
        """Return the principal and the time in seconds since 1970 from which it is not valid, leeway included."""
        # 2
        parts = token.split(".")
        if len(parts) != 3:
            raise _not_accepted("it is neither a token of this server nor a JWT")
        header, payload, signature = _json_object(_bytes(parts[0])), _bytes(parts[1]), _bytes(parts[2])
        # 3 to 5
        check = self._signatures.get(_algorithm(header))
        if check is None:
            raise _not_accepted(f"its `alg` is not {' or '.join(self._signatures)}, as the configured key needs")
        # 6
        if not check(token.rpartition(".")[0].encode(), signature):
            raise _not_accepted("its signature is not that of the configured key")
        claims = _json_object(payload)
        # 7 and 8
        until = _expiry(claims, self._clock())
        self._check_parties(claims)
        return Principal(_subject(claims), *_scopes(claims)), until

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise _not_accepted("its issuer is not the one that is configured")
        audience = claims.get("aud")
        if self._audience is None:
            if "aud" in claims:
                raise _not_accepted("it is for an audience, and this server has no name for itself configured")
        elif self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _not_accepted("it is for another audience than the one that is configured")


def load_jwt_key(
    path: str | Path, *, issuer: str | None, audience: str | None, clock: Callable[[], float] = time.time
) -> JwtVerifier:
    """Return the verifier for a public key in PEM: RSA of 2048 bits or more, EC P-256 or P-384, or Ed25519.

    `clock` gives seconds since 1970. An `issuer` or `audience` of None is not asked for.

    Raises:
        MissingError: there is no such file, or joserfc or cryptography is not installed.
        UnavailableError: it cannot be read.
        UntrustedError: it is a folder, a pipe or a device.
        RefusedError: group or others may write it, it is a private key, or an RSA key is too short.
        UnsupportedError: it is a key of another type or curve.
        InvalidError: it is not one public key in PEM, or `issuer` or `audience` is empty.
    """
    if issuer == "" or audience == "":
        raise InvalidError(
            "the issuer or the audience of JWTs is empty",
            why="an empty one would look like a check and be none",
            hint="give its value, or leave it out",
        )
    data = read_guarded(path, _MAX_KEY_BYTES)
    _check_public(data, path)
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from joserfc.jws import JWSRegistry
    except ImportError as error:
        raise MissingError(
            "joserfc or cryptography is not installed", why=str(error), hint="run `pip install 'tilth[serve]'`"
        ) from None
    try:
        public = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key(path, str(error).partition(".")[0]) from None
    key, names = _fixed(public, path)
    signatures = {name: partial(JWSRegistry.algorithms[name].verify, key=key) for name in names}
    return JwtVerifier(signatures, issuer=issuer, audience=audience, clock=clock)


def _check_public(data: bytes, path: str | Path) -> None:
    if b"PRIVATE KEY" in data:
        raise RefusedError(
            f"`{path}` is a private key",
            why="a server only verifies; with this file whoever breaks into it could sign",
            hint=f"openssl pkey -in {path} -pubout -out public.pem",
        )
    if b"BEGIN CERTIFICATE" in data:
        raise InvalidError(
            f"`{path}` is a certificate",
            why="whether it is in date and who issued it would not be checked",
            hint=f"openssl x509 -in {path} -noout -pubkey > public.pem",
        )
    if data.count(b"-----BEGIN ") != 1:
        raise _bad_key(path, f"it has {data.count(b'-----BEGIN ')} PEM blocks, and one is used")


def _fixed(public: object, path: str | Path) -> tuple[object, tuple[str, ...]]:
    """Return the key for joserfc and the only algorithms that it is ever used with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < _MIN_RSA_BITS:
            raise RefusedError(
                f"`{path}` has {public.key_size} bits",
                why=f"RSA keys below {_MIN_RSA_BITS} bits can be broken",
                hint="openssl genpkey -algorithm ed25519 -out private.pem",
            )
        return RSAKey.import_key(public), ("RS256", "PS256")
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return ECKey.import_key(public), ("ES256",)
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP384R1):
        return ECKey.import_key(public), ("ES384",)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return OKPKey.import_key(public), ("EdDSA", "Ed25519")
    raise UnsupportedError(
        f"`{path}` is a key of a type or curve that is not used here",
        why="known are RSA, EC P-256 and P-384, and Ed25519",
        hint="openssl genpkey -algorithm ed25519 -out private.pem",
    )


def _bad_key(path: str | Path, why: str) -> InvalidError:
    return InvalidError(
        f"`{path}` is not a public key in PEM", why=why, hint=f"openssl pkey -pubin -in {path} -noout -text"
    )


def _bytes(text: str) -> bytes:
    """Return what strict base64url without padding stands for: one text for every sequence of bytes."""
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        found = b""
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != text or not found:
        raise _not_accepted("a part of it is empty or not base64url")
    return found


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _not_accepted("its header or its claims are not a JSON object")
    return found


def _algorithm(header: Mapping[str, Any]) -> str:
    # 3
    if not header.keys() <= _HEADER:
        raise _not_accepted("its header has other parameters than `alg`, `typ`, `kid` and thumbprints")
    algorithm, kind, key_id = header.get("alg"), header.get("typ", "JWT"), header.get("kid", "none")
    # 4
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _not_accepted("its `typ` is not that of an access token")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise _not_accepted("its `kid` is not the name of a key")
    return algorithm if isinstance(algorithm, str) else ""


def _expiry(claims: Mapping[str, Any], now_s: float) -> float:
    expires = _date(claims, "exp")
    if expires is None:
        raise _not_accepted("it has no `exp`, so it would be valid for ever")
    if expires + LEEWAY_S <= now_s:
        raise _not_accepted("it has expired")
    for name in ("nbf", "iat"):
        begins = _date(claims, name)
        if begins is not None and begins > now_s + LEEWAY_S:
            raise _not_accepted(f"its `{name}` is in the future; one of the clocks may be wrong")
    return expires + LEEWAY_S


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate of RFC 7519 in seconds since 1970, or None when the claim is not there."""
    value = claims.get(name)
    if name not in claims:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise _not_accepted(f"its `{name}` is not a number of seconds")
    return value


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims.get("sub", "jwt")
    if not isinstance(subject, str) or not 0 < len(subject) <= 256 or not subject.isprintable():
        raise _not_accepted("its `sub` is not text of 1 to 256 printable characters")
    return subject


def _scopes(claims: Mapping[str, Any]) -> tuple[frozenset[str], tuple[str, ...]]:
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name, "")
        listed = value.split(" ") if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise _not_accepted(f"its `{name}` is neither text nor a list of texts")
        found.update(listed)
    try:
        return granted(found)
    except ValueError as error:
        raise _not_accepted(str(error)) from None


def _not_accepted(why: str) -> RefusedError:
    return RefusedError("the JWT is not accepted", why=why, hint="get a new one from its issuer")
