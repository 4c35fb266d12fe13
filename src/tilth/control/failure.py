"""The error that only the control plane raises, and what of others' errors is no defect of it.

The errors that its clients know too are `tilth.client.errors`.
"""

from sqlalchemy.exc import OperationalError

from tilth.core.errors import TilthError, UnavailableError


class BusyError(UnavailableError):
    """Too much is asked at a time; wait and send it again."""


def outage(error: Exception) -> str | None:
    """Return in one line what a disk, a store or a network says that fails for a while; None for a defect."""
    if isinstance(error, OperationalError):
        return f"the store cannot be used: {str(error.orig).strip().partition(chr(10))[0][:300]}"
    return str(error) if isinstance(error, OSError | TilthError) else None
