"""The error that stands for a list of refusals."""

from collections.abc import Sequence

from tilth.core.build import Refusal
from tilth.core.errors import UnsupportedError


def check_not_refused(framework: str, model: object, refusals: Sequence[Refusal], *, hint: str) -> None:
    """Do nothing when there is no refusal.

    Raises:
        UnsupportedError: there is one; `why` holds every reason with whose move it is.
    """
    if refusals:
        raise UnsupportedError(
            f"`{framework}` cannot capture this {type(model).__name__}",
            why="; ".join(f"{item.reason} ({item.verdict})" for item in refusals),
            hint=hint,
        )
