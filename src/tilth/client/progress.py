"""Who is told how far something is; the same form as that of a search for builds."""

from typing import Protocol


class Progress(Protocol):
    """Told how far long work is, for people. What it raises ends the work."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` of `stage` are finished, in bytes where bytes are moved; `detail` says what is next."""
        ...


def silent(stage: str, done: int, total: int, detail: str = "") -> None:
    """Tell nobody."""
