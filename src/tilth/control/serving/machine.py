"""What follows for one endpoint from what is wanted, what was done and what is seen; pure.

At most one thing is under way at a time, and what it was is remembered until it has worked or not: what is wanted may
be another by then. A deployment that fails leaves, or brings back, what answered before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tilth.control.traffic import Shares

Phase = Literal["idle", "shelving", "loading", "restoring", "unloading"]


@dataclass(frozen=True)
class Seen:
    """What the server says of a version: `ready`, `loading` or `unavailable`, why, and which build answers."""

    state: str
    reason: str = ""
    build: str = ""


_READY = Seen("ready")


@dataclass(frozen=True)
class State:
    """One endpoint.

    `digests` names the bundle of each wanted version, `shelf` those that lie where the server finds them. `applied`
    is what the server was last told and took, in deployment `applied_number`. `task` is under way, for deployment
    `task_number`. `failed` is the number of a wanted deployment that did not work, and `why`. `up` says that the
    server answers.
    """

    number: int = 0
    wanted: Shares = field(default_factory=Shares)
    digests: Mapping[str, str] = field(default_factory=dict)
    shelf: Mapping[str, str] = field(default_factory=dict)
    applied: Shares = field(default_factory=Shares)
    applied_number: int = 0
    phase: Phase = "idle"
    task: "Shelve | Load | Unload | None" = None
    task_number: int = 0
    failed: int = 0
    why: str = ""
    #: Why the server does not take back what answered before a deployment that failed.
    lost: str = ""
    up: bool = False
    seen: Mapping[str, Seen] = field(default_factory=dict)
    #: The server may not have what it was told last: it was started anew, or gave out on the way.
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
            state = _wanting(state, number, shares, digests)
        case Removed():
            state = replace(state, removed=True, wanted=Shares(), digests={})
        case Up(anew):
            state = replace(state, up=True, anew=state.anew or anew)
        case Down():
            # What is under way is answered even so, as it fails with the server.
            state = replace(state, up=False, seen={})
        case Look(versions):
            state = replace(state, seen=versions)
        case Round():
            state = replace(state, hold=False)
        case Done():
            state = replace(_done(state), phase="idle", task=None)
        case _:
            state = replace(_failed(state, event.why, event.again), phase="idle", task=None)
    return _next(state)


def _wanting(state: State, number: int, shares: Shares, digests: Mapping[str, str]) -> State:
    if number == state.number or state.removed:
        return state
    gone = [one for one in shares.versions if one not in digests]
    failed = {"failed": number, "why": f"version {gone[0]} is not there"} if gone else {"failed": 0, "why": ""}
    return replace(state, number=number, wanted=shares, digests=digests, **failed)  # type: ignore[arg-type]


def _done(state: State) -> State:
    match state.phase, state.task:
        case "shelving", Shelve(version, digest):
            return replace(state, shelf={**state.shelf, version: digest}, **_cleared(state))
        case "loading", Load(shares):
            # It was answered when all of them were: a look from before that is no longer true.
            known = {one: state.seen.get(one, _READY) for one in shares.versions}
            seen = {**state.seen, **{one: was if was.state == "ready" else _READY for one, was in known.items()}}
            told = {"applied": shares, "applied_number": state.task_number, "lost": "", "seen": seen}
            return replace(state, **told, **_cleared(state))  # type: ignore[arg-type]
        case "restoring", _:
            return replace(state, lost="")
        case "unloading", _:
            return replace(state, applied=Shares(), applied_number=state.number)
        case _:
            return state


def _cleared(state: State) -> dict[str, Any]:
    """Return what is forgotten when something works for the deployment that is wanted."""
    return {"failed": 0, "why": ""} if state.task_number == state.number and state.failed != state.number else {}


def _failed(state: State, why: str, again: bool) -> State:
    # A server that was told may have taken a part of it: it is told once more.
    state = replace(state, anew=state.anew or state.phase in ("loading", "restoring"))
    if again or state.phase == "unloading":
        return replace(state, why=state.why if state.failed else why, hold=True)
    if state.phase == "restoring":
        return replace(state, lost=why[:2000], hold=True)
    if state.phase == "idle" or state.task_number != state.number:
        return state
    return replace(state, failed=state.number, why=why)


def _next(state: State) -> tuple[State, list[Action]]:
    if state.phase != "idle" or state.hold:
        return state, []
    if state.removed:
        return _emptied(state)
    if not state.wanted.versions:
        # What is wanted was not told yet; what an earlier process applied goes on.
        return state, []
    if state.failed == state.number:
        if state.up and state.anew and state.applied.versions:
            return _begun(replace(state, anew=False), "restoring", Load(state.applied))
        return _tidied(state)
    missing = [one for one in state.wanted.versions if state.shelf.get(one) != state.digests[one]]
    if missing:
        return _begun(state, "shelving", Shelve(missing[0], state.digests[missing[0]]))
    if state.up and (state.anew or state.applied_number != state.number):
        return _begun(replace(state, anew=False), "loading", Load(state.wanted))
    return _tidied(state) if state.applied_number == state.number else (state, [])


def _begun(state: State, phase: Phase, task: Shelve | Load | Unload) -> tuple[State, list[Action]]:
    return replace(state, phase=phase, task=task, task_number=state.number), [task]


def _emptied(state: State) -> tuple[State, list[Action]]:
    if state.applied.versions and state.up:
        return _begun(replace(state, anew=False), "unloading", Unload())
    # What it was told ends with the server.
    return _tidied(replace(state, applied=Shares(), applied_number=state.number))


def _tidied(state: State) -> tuple[State, list[Action]]:
    keep = {*state.applied.versions} | ({*state.wanted.versions} if state.failed != state.number else set())
    gone = tuple(sorted(state.shelf.keys() - keep))
    if not gone:
        return state, []
    return replace(state, shelf={one: digest for one, digest in state.shelf.items() if one in keep}), [Unshelve(gone)]


# -- what is told


@dataclass(frozen=True)
class Report:
    """What is said of an endpoint: `state` and `message` for people, what answers, and each version.

    `deployment` is the one that answers, and `about` the wanted one, which may be on its way or have failed.
    """

    deployment: int
    about: int
    state: str
    message: str
    traffic: Mapping[str, float]
    shadow: Mapping[str, float]
    versions: Mapping[str, Mapping[str, str]]


def report(state: State) -> Report:
    """Return the truth about an endpoint."""
    name, message = _standing(state)
    versions = {one: {"state": seen.state, "reason": seen.reason, "build": seen.build} for one, seen in _seen(state)}
    return Report(
        state.applied_number, state.number, name, message, state.applied.traffic, state.applied.shadow, versions
    )


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
        before = f"; and going back to deployment {state.applied_number} fails: {state.lost}" if state.lost else before
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
