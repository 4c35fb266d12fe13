"""Who answers how much: the shares of an endpoint's versions after a deployment; pure.

Shares are percents by version number. Those of `traffic` add up to 100 unless there is none; a version of `shadow`
sees requests without answering them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.core.errors import InvalidError

MOST_VERSIONS = 8


@dataclass(frozen=True)
class Shares:
    """Which versions answer and which look on."""

    traffic: Mapping[str, float] = field(default_factory=dict)
    shadow: Mapping[str, float] = field(default_factory=dict)

    @property
    def versions(self) -> list[str]:
        """All versions by number."""
        return sorted({*self.traffic, *self.shadow}, key=int)

    def as_json(self) -> dict[str, Any]:
        """Return it as rows keep it."""
        return {"traffic": dict(self.traffic), "shadow": dict(self.shadow)}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "Shares":
        """Return what `as_json` gave."""
        return cls(dict(kept.get("traffic", {})), dict(kept.get("shadow", {})))


def deployed(before: Shares, version: str, traffic: float, shadow: float) -> Shares:
    """Return the shares when `version` gets `traffic` percent, and sees `shadow` percent without answering.

    The first version of an endpoint answers everything. The others keep their proportions of what is left; those that
    have nothing left are gone.

    Raises:
        InvalidError: it would be both, or neither, or too many versions.
    """
    if shadow and traffic and traffic < 100:
        raise InvalidError("a version either answers or looks on", why=f"traffic is {traffic:g} and shadow {shadow:g}")
    if shadow:
        if not [one for one in before.traffic if one != version]:
            raise InvalidError(
                "a version cannot only look on",
                why="no other version answers at this endpoint",
                hint="deploy one with traffic first",
            )
        others = {one: share for one, share in before.traffic.items() if one != version}
        return _checked(Shares(_scaled(others, 100), {**before.shadow, version: shadow}))
    others = {one: share for one, share in before.traffic.items() if one != version}
    looking = {one: share for one, share in before.shadow.items() if one != version}
    if not others:
        if traffic == 0:
            raise InvalidError("nobody would answer", why=f"version {version} is the only one", hint="give it traffic")
        return _checked(Shares({version: 100.0}, looking))
    shares = _scaled(others, 100 - traffic)
    if traffic:
        shares[version] = float(traffic)
    if traffic == 100:
        looking = {}
    return _checked(Shares(shares, looking))


def promoted(version: str) -> Shares:
    """Return the shares when one version answers everything."""
    return Shares({version: 100.0})


def _scaled(shares: Mapping[str, float], total: float) -> dict[str, float]:
    whole = sum(shares.values())
    if total <= 0 or whole <= 0:
        return {}
    return {one: round(share * total / whole, 3) for one, share in shares.items() if share > 0}


def _checked(shares: Shares) -> Shares:
    if len(shares.versions) > MOST_VERSIONS:
        raise InvalidError(
            f"an endpoint would serve {len(shares.versions)} versions",
            why=f"it may serve {MOST_VERSIONS}",
            hint="promote one of them first",
        )
    return shares
