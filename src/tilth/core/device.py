"""Chips: the class that a build is made for, and the one that is present on a node."""

from dataclasses import dataclass

SIMULATED = "simulated:"


@dataclass(frozen=True)
class Device:
    """One chip present on this node.

    `target` is its class, for example `cpu-x86_64` or `ascend-310p3`; a simulated one starts with
    `simulated:`. `isa` lists the instruction-set extensions that engines make use of, `cores` counts what this
    process may use, `memory_bytes` is what the chip can address.
    """

    id: str
    target: str
    name: str
    cores: int = 0
    memory_bytes: int = 0
    isa: tuple[str, ...] = ()
    driver: str = ""

    @property
    def simulated(self) -> bool:
        """Whether this stands in for a chip that is not here."""
        return self.target.startswith(SIMULATED)
