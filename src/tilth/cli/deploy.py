"""`tilth deploy`: a version at an endpoint, and what comes of it."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit
from tilth.cli.progress import moved
from tilth.cli.remote import InProject, parsed_percent, plain, share
from tilth.client.client import Client
from tilth.client.errors import ConflictError
from tilth.client.reference import Reference, parse_reference
from tilth.client.shapes.endpoint import Endpoint
from tilth.core.errors import MissingError, RefusedError

Note = Annotated[str, typer.Option("--note", help="Why, for the history.")]
Wait = Annotated[
    float, typer.Option("--wait", min=0, max=3600, help="Seconds to wait until it serves; 0 does not wait.")
]
WAIT_S = 300.0


def command(
    model: Annotated[str, typer.Argument(help="MODEL:VERSION; a number, an alias or `latest`.")],
    to: Annotated[str, typer.Option("--to", help="The endpoint, made where it is not there; default: MODEL.")] = "",
    traffic: Annotated[str, typer.Option("--traffic", help="Share of the requests that it answers: a canary.")] = "",
    shadow: Annotated[str, typer.Option("--shadow", help="Share that it sees without answering.")] = "",
    note: Note = "",
    wait: Wait = WAIT_S,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Serve a version at an endpoint, with all traffic or a part.

    With --traffic 10% the versions that answer already keep the other 90%. A version that cannot be loaded never takes
    the place of one that serves. Waits until the control plane says what has come of it, and ends with 6 when it
    failed.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    named = parse_reference(model, version=True)
    answering, looking = parsed_percent(traffic or "100%"), parsed_percent(shadow or "0%")
    with Client.logged_in(project) as client, moved(as_json) as report:
        name = to or named.model
        fresh = _make_endpoint(client, name, named)
        try:
            wanted = client.endpoints.deploy(
                name, named.version, traffic=0.0 if looking and not traffic else answering, shadow=looking, note=note
            )
        except RefusedError:
            if fresh is not None:
                client.endpoints.remove(name, match=fresh.etag)  # what was made for a refused version goes with it
            raise
        client.endpoints.settle(wanted, wait_s=wait, progress=report)
        show(client, name, as_json)


def show(client: Client, name: str, as_json: bool) -> None:
    """Print how an endpoint stands, and where it answers."""
    found, serving = client.endpoints.get(name), client.me().serving
    emit({"endpoint": plain(found), "serving": serving}, as_json, lambda: line(found, serving))


def line(found: Endpoint, serving: str) -> str:
    """Return how an endpoint stands, for people."""
    state = found.standing.state if found.standing is not None else "not seen yet"
    answering = [f"{found.model}:{number} {share(part)}" for number, part in _by_number(found.wanted.traffic)]
    looking = [f"{found.model}:{number} sees {share(part)}" for number, part in _by_number(found.wanted.shadow)]
    where = f"\nanswers at {serving}/v2/models/{found.served_as}/infer" if serving and answering else ""
    return f"{found.name} is {state}: {', '.join([*answering, *looking]) or 'nothing is deployed'}{where}"


def _by_number(shares: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda one: int(one[0]))


def _make_endpoint(client: Client, name: str, named: Reference) -> Endpoint | None:
    """Make an endpoint where there is none, and return it when it was made here."""
    try:
        client.endpoints.get(name)
        return None
    except MissingError:
        # Nothing is made for a version that is not there.
        client.versions.get(named.model, named.version)
    try:
        return client.endpoints.make(name, named.model)
    except ConflictError:
        client.endpoints.get(name)  # somebody else has made it in between
        return None
