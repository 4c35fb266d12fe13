"""What the supervisor decides: where a version runs, and what follows when its process dies; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tilth.core.errors import InvalidError
from tilth.serve.traffic import ALL, LATEST, Policy

Isolation = Literal["auto", "always", "never"]
#: How often a version may kill a process before it is not started again.
MOST_STRIKES = 3


@dataclass(frozen=True)
class Standing:
    """How a version has behaved since it was loaded: the processes that it killed, and where it runs since."""

    strikes: int = 0
    apart: bool = False

    @property
    def quarantined(self) -> bool:
        """Whether it is not started again until somebody loads it."""
        return self.strikes >= MOST_STRIKES


def struck(standing: Standing) -> Standing:
    """Return the standing of a version that killed its process: from now on it has one of its own."""
    return replace(standing, strikes=standing.strikes + 1, apart=True)


def runs_inline(*, small: bool, alone: bool, standing: Standing, isolation: Isolation) -> bool:
    """Return whether a version runs in the workers themselves.

    A small build does when nothing else is served beside it: nobody else loses a request by it. With `never` it always
    does, until it has killed a worker.
    """
    if not small or standing.apart or isolation == "always":
        return False
    return alone or isolation == "never"


def respawn_after_s(lived_s: float, deaths_in_a_row: int) -> float:
    """Return how long to wait before a process that lived so long is started again.

    At once, unless it dies right after its start again and again.
    """
    return 0.0 if lived_s > 5 or deaths_in_a_row < 3 else min(10.0, 0.25 * 2 ** (deaths_in_a_row - 3))


def policy_of(settings: Mapping[str, Any]) -> Policy:
    """Return the policy that the `config` of a load call says.

    Raises:
        InvalidError: it does not have the form.
    """
    versions = settings.get("versions", LATEST)
    sound = versions in (LATEST, ALL) or (
        isinstance(versions, list) and versions and all(isinstance(one, str) for one in versions)
    )
    shares = [settings.get("split", {}), settings.get("shadow", {})]
    if not sound or not all(isinstance(share, dict) and all(map(_is_weight, share.values())) for share in shares):
        raise InvalidError("`config` is not understood", hint='{"versions": "all", "split": {"1": 90, "2": 10}}')
    return Policy(versions if isinstance(versions, str) else tuple(versions), shares[0], shares[1])


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1e6
