"""What a device plug-in must offer: which chips of its kind are on this machine."""

from typing import Protocol

from tilth.core.device import Device


class Prober(Protocol):
    """Finds chips of one kind. Finding none is not an error."""

    name: str

    def devices(self) -> list[Device]:
        """Return the chips of this kind that this process can use, in a stable order."""
        ...
