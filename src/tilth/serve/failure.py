"""Errors that only a server has, by what the caller can do about them."""

from tilth.core.errors import InvalidError, UnavailableError


class TooLargeError(InvalidError):
    """A request is beyond a limit of this server; send less, or raise the limit."""


class HeadersTooLargeError(TooLargeError):
    """What stands before the body is beyond a limit of this server."""


class SlowError(InvalidError):
    """The client took longer to send its request than this server waits."""


class OverloadedError(UnavailableError):
    """More was asked than can be answered; ask again after `retry_after_s` seconds."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", retry_after_s: int = 1) -> None:
        super().__init__(what, why=why, hint=hint)
        self.retry_after_s = retry_after_s


class DeadlineError(UnavailableError):
    """The caller's deadline passed before the answer was there."""
