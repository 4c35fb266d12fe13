"""`tilth devices`: which chips are on this machine."""

from dataclasses import asdict

from rich.table import Table

from tilth import wiring
from tilth.cli.output import AsJson, emit, human_bytes, table
from tilth.core.device import Device


def command(as_json: AsJson = False) -> None:
    """List the chips on this machine that can run a build.

    Cores and memory are what this process may use, after CPU affinity and container limits. A null device for
    tests is listed when the environment has TILTH_NULL_DEVICE=1.
    """
    found = present()
    emit({"devices": [asdict(device) for device in found]}, as_json, lambda: _render(found))


def present() -> list[Device]:
    """Return every chip that some prober finds, in the order of the probers."""
    return [device for prober in wiring.probers() for device in prober.devices()]


def _render(found: list[Device]) -> Table:
    rows = [(d.id, d.target, d.name, d.cores, _memory(d), ", ".join(d.isa) or "-", d.driver or "-") for d in found]
    columns = ("device", "target", "chip", "cores", "memory", "isa", "driver")
    return table(columns, rows, right=("cores", "memory"))


def _memory(device: Device) -> str:
    return human_bytes(device.memory_bytes) if device.memory_bytes else "-"
