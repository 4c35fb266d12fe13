"""Errors of a control plane, which raises them and whose clients tell them apart, by what the caller can do about them.

RefusedError
├── UnknownError    the token is missing or not accepted: log in
├── ForbiddenError  the token is known, and may not do this: ask for a role
├── ConflictError   it is there already, or in use: choose another name, or free it
└── StaleError      somebody changed it meanwhile: read it again and decide anew
UnavailableError
└── AwayError       it does not answer, or not at this time: try again

Every other error of the API is one of `tilth.core.errors`.
"""

from tilth.core.errors import RefusedError, UnavailableError


class UnknownError(RefusedError):
    """The token is missing, or not accepted."""


class ForbiddenError(RefusedError):
    """Whoever the token belongs to may not do this."""


class ConflictError(RefusedError):
    """What is asked for collides with what is there."""


class StaleError(RefusedError):
    """Somebody else changed it meanwhile; read it again and decide anew."""


class AwayError(UnavailableError):
    """Nobody answers, or says that it cannot at this time.

    `after_s` is how long to wait before the next try as far as the other side says so. `told` says that the control
    plane itself named the reason, for example a full disk; else something on the way did, or nothing at all.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "", after_s: float = 0.0, told: bool = False) -> None:
        super().__init__(what, why=why, hint=hint)
        self.after_s = after_s
        self.told = told
