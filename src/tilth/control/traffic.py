"""Who answers how much: the shares of an endpoint's versions after a deployment; pure.

Shares are percents by version number. Those of `traffic` add up to 100 unless there is none; a version of `shadow`
sees requests without answering them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.core.errors import InvalidError

MOST_VERSIONS = 8
#: Shares are counted in parts, thousandths of a percent, so that rounding leaves nothing over.
_PART = 1000
_WHOLE = 100 * _PART


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
    have nothing left are gone. Shares are rounded to thousandths of a percent, and none to nothing or everything.

    Raises:
        InvalidError: it would be both, or neither, or too many versions.
    """
    if shadow and traffic and traffic < 100:
        raise InvalidError("a version either answers or looks on", why=f"traffic is {traffic:g} and shadow {shadow:g}")
    others = {one: share for one, share in before.traffic.items() if one != version}
    looking = {one: share for one, share in before.shadow.items() if one != version}
    if shadow:
        if not others:
            raise InvalidError(
                "a version cannot only look on",
                why="no other version answers at this endpoint",
                hint="deploy one with traffic first",
            )
        return _checked(Shares(_scaled(others, _WHOLE), {**looking, version: _parts(shadow) / _PART}))
    if not others:
        if traffic == 0:
            raise InvalidError("nobody would answer", why=f"version {version} is the only one", hint="give it traffic")
        return _checked(Shares({version: 100.0}, looking))
    own = _parts(traffic)
    shares = _scaled(others, _WHOLE - own)
    if own:
        shares[version] = own / _PART
    return _checked(Shares(shares, looking if traffic < 100 else {}))


def promoted(version: str) -> Shares:
    """Return the shares when one version answers everything."""
    return Shares({version: 100.0})


def _parts(percent: float) -> int:
    """Return a share in parts; one that is something stays something, and one that is not all does not become all."""
    if percent in (0, 100):
        return round(percent * _PART)
    return min(max(round(percent * _PART), 1), _WHOLE - 1)


def _scaled(shares: Mapping[str, float], parts: int) -> dict[str, float]:
    """Return shares in their proportions that add up to so many parts; what is left over goes to the largest rests."""
    whole = sum(shares.values())
    exact = {one: share * parts / whole for one, share in shares.items()}
    made = {one: int(share) for one, share in exact.items()}
    rests = sorted(exact, key=lambda one: (made[one] - exact[one], int(one)))
    for one in rests[: parts - sum(made.values())]:
        made[one] += 1
    return {one: share / _PART for one, share in made.items() if share}


def _checked(shares: Shares) -> Shares:
    if len(shares.versions) > MOST_VERSIONS:
        raise InvalidError(
            f"an endpoint would serve {len(shares.versions)} versions",
            why=f"it may serve {MOST_VERSIONS}",
            hint="promote one of them first",
        )
    return shares
