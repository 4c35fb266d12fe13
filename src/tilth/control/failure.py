"""Errors that only the control plane has, by what the caller can do about them.

RefusedError
├── UnknownError    nobody that is known asks: present a credential
├── ForbiddenError  who asks is known, and may not: ask for a role
├── ConflictError   it is there already, or in use: choose another name, or free it
└── StaleError      somebody changed it meanwhile: read it again and decide anew
UnavailableError
└── BusyError       too much is asked at a time: wait and send it again
"""

from tilth.core.errors import RefusedError, UnavailableError


class UnknownError(RefusedError):
    """Nobody that is known asks: a credential is missing, or not accepted."""


class ForbiddenError(RefusedError):
    """Whoever asks is known, and may not do this."""


class ConflictError(RefusedError):
    """What is asked for collides with what is there."""


class StaleError(RefusedError):
    """Somebody else changed it meanwhile; read it again and decide anew."""


class BusyError(UnavailableError):
    """Too much is asked at a time; wait and send it again."""
