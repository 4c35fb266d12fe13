"""The error that only the control plane raises; those that its clients know too are `tilth.client.errors`."""

from tilth.core.errors import UnavailableError


class BusyError(UnavailableError):
    """Too much is asked at a time; wait and send it again."""
