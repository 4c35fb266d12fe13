"""A device that is not there, so that everything above a device can be tested without hardware."""

import os

from tilth.core.device import Device

SWITCH = "TILTH_NULL_DEVICE"


class NullProber:
    """Finds one device `null:0` of target `null` when the environment has `TILTH_NULL_DEVICE=1`, else none."""

    name = "null"

    def devices(self) -> list[Device]:
        """Return the null device when it was asked for."""
        if os.environ.get(SWITCH) != "1":
            return []
        return [Device(id="null:0", target="null", name="null device, for tests", cores=1)]
