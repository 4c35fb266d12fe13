"""The console, put together: one call declares every page, form and stream at the desk."""

from collections.abc import Awaitable, Callable, Sequence

from tilth.control.api.desk import Desk
from tilth.control.console.door import Door
from tilth.control.console.live import Live
from tilth.control.console.pages import (
    endpoints,
    events,
    models,
    nodes,
    overview,
    people,
    projects,
    provider,
    sign_in,
    versions,
)
from tilth.control.console.pages.sign_in import SignIn
from tilth.control.console.sources import Sources
from tilth.control.oidc import Oidc


def declare(
    desk: Desk,
    sources: Sources,
    heard: Callable[[float], Awaitable[None]],
    ready: Callable[[], bool],
    ways: Sequence[SignIn] = (),
    oidc: Oidc | None = None,
) -> Door:
    """Declare the console's routes and return its door; they come behind those of the API.

    `heard` waits for an event, at most so long. `ready` says that the control plane goes on: streams end when it does
    not. `oidc` is an identity provider that people sign in through, and `ways` are other ways beside a token; each is a
    button.
    """
    door = Door(desk)
    live = Live(door, heard, ready)
    if oidc is not None:
        provider.declare(door, oidc)
        ways = [provider.way("Sign in with your company account"), *ways]
    sign_in.declare(door, ways)
    overview.declare(door, live, sources)
    models.declare(door)
    versions.declare(door, sources)
    endpoints.declare(door, live, sources)
    events.declare(door, live)
    nodes.declare(door)
    people.declare(door)
    projects.declare(door)
    sign_in.declare_last(door)
    return door
