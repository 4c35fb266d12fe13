"""What follows for one endpoint from what is wanted, what was done and what is seen; pure.

At most one thing is under way at a time. A deployment that fails leaves, or brings back, what answered before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tilth.control.traffic import Shares

Phase = Literal["idle", "shelving", "loading", "restoring", "unloading"]


@dataclass(frozen=True)
class Seen:
    """What the server says of a version: `ready`, `loading` or `unavailable`, why, and which build answers."""

    state: str
    reason: str = ""
    build: str = ""


@dataclass(frozen=True)
class State:
    """One endpoint.

    `digests` names the bundle of each wanted version, `shelf` those that lie where the server finds them. `applied`
    is what the server was last told and took, in deployment `applied_number`. `failed` is the number of a wanted
    deployment that did not work, and `why`. `up` says that the server answers.
    """

    number: int = 0
    wanted: Shares = field(default_factory=Shares)
    digests: Mapping[str, str] = field(default_factory=dict)
    shelf: Mapping[str, str] = field(default_factory=dict)
    applied: Shares = field(default_factory=Shares)
    applied_number: int = 0
    phase: Phase = "idle"
    failed: int = 0
    why: str = ""
    up: bool = False
    seen: Mapping[str, Seen] = field(default_factory=dict)
    #: The server was started anew and has to be told again.
    anew: bool = False
    removed: bool = False
    #: Something gave out that may come back: nothing is begun before the next round.
    hold: bool = False

    @property
    def needs_server(self) -> bool:
        """Whether a server has to run for it."""
        return bool(self.wanted.versions or self.applied.versions) and not self.removed


# -- events


@dataclass(frozen=True)
class Want:
    """A deployment, with the digest of every version's bundle."""

    number: int
    shares: Shares
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Removed:
    """The endpoint is wanted no more."""


@dataclass(frozen=True)
class Up:
    """The server answers; `anew` says that it was started since it last did."""

    anew: bool


@dataclass(frozen=True)
class Down:
    """The server does not answer."""


@dataclass(frozen=True)
class Done:
    """What was under way has worked."""


@dataclass(frozen=True)
class Failed:
    """What was under way has not worked. `again` says that something gave out, and the deployment is not at fault."""

    why: str
    again: bool = False


@dataclass(frozen=True)
class Look:
    """What the server says of every version."""

    versions: Mapping[str, Seen]


@dataclass(frozen=True)
class Round:
    """Time has passed."""


Event = Want | Removed | Up | Down | Done | Failed | Look | Round


# -- actions


@dataclass(frozen=True)
class Shelve:
    """Put a bundle where the server finds it."""

    version: str
    digest: str


@dataclass(frozen=True)
class Load:
    """Tell the server which versions answer and which look on."""

    shares: Shares


@dataclass(frozen=True)
class Unload:
    """Tell the server to serve nothing of this endpoint."""


@dataclass(frozen=True)
class Unshelve:
    """Remove bundles from where the server finds them."""

    versions: tuple[str, ...]


Action = Shelve | Load | Unload | Unshelve


def step(state: State, event: Event) -> tuple[State, list[Action]]:
    """Return the next state and what is to be done; each action but Unshelve is answered by Done or Failed."""
    match event:
        case Want(number, shares, digests):
            if number != state.number:
                state = replace(state, number=number, wanted=shares, digests=digests, failed=0, why="")
        case Removed():
            state = replace(state, removed=True, wanted=Shares(), digests={})
        case Up(anew):
            state = replace(state, up=True, anew=state.anew or anew)
        case Down():
            # What was under way ends with the server, and is begun again when there is one.
            phase: Phase = "shelving" if state.phase == "shelving" else "idle"
            state = replace(state, up=False, phase=phase, seen={})
        case Look(versions):
            state = replace(state, seen=versions)
        case Round():
            state = replace(state, hold=False)
        case Done():
            state = _done(state)
        case Failed(why, again):
            state = _failed(state, why, again)
    return _next(state)


def _done(state: State) -> State:
    match state.phase:
        case "shelving":
            # One was shelved: the first that was missing.
            version = _unshelved(state)[0]
            return replace(state, phase="idle", shelf={**state.shelf, version: state.digests[version]}, why="")
        case "loading":
            return replace(
                state, phase="idle", applied=state.wanted, applied_number=state.number, anew=False, failed=0, why=""
            )
        case "restoring":
            return replace(state, phase="idle", anew=False)
        case "unloading":
            return replace(state, phase="idle", applied=Shares(), applied_number=state.number, anew=False)
        case _:
            return state


def _failed(state: State, why: str, again: bool) -> State:
    if state.phase == "loading" and not again:
        # The server may have taken a part of it: it is told once more what answered before.
        return replace(state, phase="idle", failed=state.number, why=why, anew=bool(state.applied.versions))
    if state.phase == "restoring" and not again:
        return replace(state, phase="idle", why=f"{state.why}; and going back failed: {why}"[:2000], anew=False)
    if again:
        # A server that was told and did not answer may have taken a part of it.
        told = state.phase in ("loading", "restoring")
        return replace(state, phase="idle", why=why, hold=True, anew=state.anew or told)
    return replace(state, phase="idle", failed=state.number, why=why)


def _next(state: State) -> tuple[State, list[Action]]:
    if state.phase != "idle" or state.hold:
        return state, []
    if state.removed or not state.wanted.versions:
        return _emptied(state)
    if state.failed == state.number:
        if state.up and state.anew and state.applied.versions:
            return replace(state, phase="restoring"), [Load(state.applied)]
        return _tidied(state)
    missing = _unshelved(state)
    if missing:
        return replace(state, phase="shelving"), [Shelve(missing[0], state.digests[missing[0]])]
    if state.up and (state.anew or state.applied_number != state.number):
        return replace(state, phase="loading"), [Load(state.wanted)]
    return _tidied(state) if state.applied_number == state.number else (state, [])


def _emptied(state: State) -> tuple[State, list[Action]]:
    if state.applied.versions:
        if state.up:
            return replace(state, phase="unloading"), [Unload()]
        return state, []
    return _tidied(replace(state, applied_number=state.number))


def _tidied(state: State) -> tuple[State, list[Action]]:
    keep = {*state.applied.versions} | ({*state.wanted.versions} if state.failed != state.number else set())
    gone = tuple(sorted(state.shelf.keys() - keep))
    if not gone:
        return state, []
    return replace(state, shelf={one: digest for one, digest in state.shelf.items() if one in keep}), [Unshelve(gone)]


def _unshelved(state: State) -> list[str]:
    return [one for one in state.wanted.versions if state.shelf.get(one) != state.digests[one]]


# -- what is told


@dataclass(frozen=True)
class Report:
    """What is said of an endpoint: `state` and `message` for people, what answers, and each version."""

    deployment: int
    state: str
    message: str
    traffic: Mapping[str, float]
    shadow: Mapping[str, float]
    versions: Mapping[str, Mapping[str, str]]


def report(state: State) -> Report:
    """Return the truth about an endpoint."""
    name, message = _standing(state)
    versions = {one: {"state": seen.state, "reason": seen.reason, "build": seen.build} for one, seen in _seen(state)}
    return Report(state.applied_number, name, message, state.applied.traffic, state.applied.shadow, versions)


def _seen(state: State) -> list[tuple[str, Seen]]:
    known = sorted({*state.applied.versions, *state.wanted.versions}, key=int)
    shown = []
    for one in known:
        seen = state.seen.get(one)
        if seen is None:
            waits = state.phase != "idle" or not state.up
            seen = Seen("loading" if waits else "unavailable", "" if waits else "the server does not know it")
        shown.append((one, seen))
    return shown


def _standing(state: State) -> tuple[str, str]:
    if state.failed == state.number and state.failed:
        before = f"; deployment {state.applied_number} goes on" if state.applied.versions else ""
        return "failed", f"deployment {state.number} failed: {state.why}{before}"
    if not state.wanted.versions and not state.applied.versions:
        return "empty", "nothing is deployed"
    if not state.up:
        return "stopped", state.why or "the server is starting"
    if state.applied_number != state.number or state.phase in ("loading", "shelving"):
        return "deploying", state.why or f"deployment {state.number} is on its way"
    lame = {one: seen for one, seen in _seen(state) if seen.state != "ready"}
    if lame:
        told = "; ".join(f"version {one} is {seen.state}: {seen.reason}".rstrip(": ") for one, seen in lame.items())
        answering = [one for one in state.applied.traffic if one not in lame]
        return ("degraded" if answering else "failed"), told
    return "ready", ""
