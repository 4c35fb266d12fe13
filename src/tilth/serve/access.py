"""Who may do what: a bearer token against the scope that a request needs.

RefusedError
├── UnauthenticatedError  no credential, or one that is not accepted: present one
└── ForbiddenError        the credential is good and not for this: ask for the scope, or for the model
"""

import re
import time

from tilth.core.errors import RefusedError
from tilth.serve.jwt import JwtVerifier
from tilth.serve.tokens import MAX_TOKEN_BYTES, SCOPES, Principal, TokenFile

#: RFC 6750, section 2.1: `b64token`.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9._~+/-]+=*)")
_HINT = "send the header `Authorization: Bearer TOKEN`"
_ANYONE = Principal("anyone", SCOPES)
#: How many of its models an error repeats to whom they belong.
_MOST_TOLD = 10


class UnauthenticatedError(RefusedError):
    """No credential, or one that is not accepted."""


class ForbiddenError(RefusedError):
    """The credential is good and lacks the scope, or is for other models."""


class Access:
    """The one check of who may do what, for every door of the server.

    With neither a token file nor a JWT key it is `open`: everyone may do everything, which is for loopback and for
    `--insecure`; whether that is acceptable is `check_exposure`'s to say.
    """

    def __init__(self, tokens: TokenFile | None = None, jwt: JwtVerifier | None = None) -> None:
        self._tokens = tokens
        self._jwt = jwt
        #: When `take` was last called, of `time.perf_counter_ns`; what was admitted before has to be checked again.
        self.taken_ns = 0

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a credential."""
        return self._tokens is None and self._jwt is None

    def take(self, tokens: TokenFile) -> None:
        """Go by other tokens from the next check on; a door that was open does not stay so."""
        self._tokens = tokens
        self.taken_ns = time.perf_counter_ns()

    def check(self, authorization: str | None, scope: str, model: str | None = "") -> Principal:
        """Return who asks, when it may do `scope`; no scope implies another.

        `authorization` is the value of the header, None when there is none. A request with more than one such header
        is for the caller to refuse. `model` is the name of the one that `infer` is about, empty for all of them, and
        None for what is about no model. Whether there is such a model is not looked at. Errors say nothing of what
        was presented.

        Raises:
            UnauthenticatedError: there is no credential, or it is not accepted.
            ForbiddenError: the scope is not among those of the credential, or it is for other models.
        """
        if self.open:
            return _ANYONE
        principal = self._principal(_secret(authorization))
        if scope not in principal.scopes:
            raise ForbiddenError(
                f"`{principal.name}` may not use scope `{scope}`",
                why=f"its credential has {', '.join(f'`{one}`' for one in sorted(principal.scopes)) or 'no scope'}",
                hint=f"ask whoever runs this server for a token with scope `{scope}`",
            )
        if scope == "infer" and model is not None and not principal.may_use(model):
            raise _other_model(principal, model)
        return principal

    def _principal(self, secret: str) -> Principal:
        found = self._tokens.find(secret) if self._tokens is not None else None
        if found is not None:
            return found
        if self._jwt is None:
            raise _not_accepted("it is none of the tokens of this server")
        try:
            return self._jwt.verify(secret)
        except RefusedError as error:
            raise _not_accepted(error.why) from None


def _secret(authorization: str | None) -> str:
    if authorization is None:
        raise UnauthenticatedError("a credential is needed", why="there is no Authorization header", hint=_HINT)
    if len(authorization) > MAX_TOKEN_BYTES + len("Bearer "):
        raise _not_accepted(f"it is longer than {MAX_TOKEN_BYTES} bytes")
    found = _BEARER.fullmatch(authorization)
    if found is None:
        raise _not_accepted("the header is not `Bearer`, one space and a token")
    return found[1]


def _other_model(principal: Principal, model: str) -> ForbiddenError:
    more = f" and {len(principal.models) - _MOST_TOLD} more" if len(principal.models) > _MOST_TOLD else ""
    return ForbiddenError(
        f"`{principal.name}` may not use " + (f"model `{model[:200]}`" if model else "what is about all models"),
        why=f"its credential is for {', '.join(f'`{one}`' for one in principal.models[:_MOST_TOLD])}{more}",
        hint="ask whoever runs this server for a token with scope " + ("`infer@MODEL`" if model else "`infer`"),
    )


def _not_accepted(why: str) -> UnauthenticatedError:
    return UnauthenticatedError("the credential is not accepted", why=why, hint=_HINT)
