"""`tilth endpoints`: served names, what answers there, and what was wanted of them."""

from typing import Annotated

import typer

from tilth.cli.deploy import line
from tilth.cli.output import AsJson, emit
from tilth.cli.remote import MANY, InProject, Limit, moment, plain, print_list, say, share, some
from tilth.client.client import Client
from tilth.client.shapes.endpoint import Endpoint, Usage, Wanted

Name = Annotated[str, typer.Argument(help="The endpoint.")]


def command(ctx: typer.Context, limit: Limit = MANY, project: InProject = "", as_json: AsJson = False) -> None:
    """List endpoints; show one, its history, or remove it.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in(project) as client:
        found = some(client.endpoints.list(), limit)
    columns = {
        "endpoint": lambda one: one.name,
        "model": lambda one: one.model,
        "state": lambda one: one.standing.state if one.standing is not None else "",
        "traffic": lambda one: _shares(one.wanted),
        "deployment": lambda one: one.deployment,
    }
    none = "no endpoint yet; `tilth deploy MODEL:VERSION` makes one"
    print_list(found, as_json, columns, right=["deployment"], none=none)


def show(name: Name, project: InProject = "", as_json: AsJson = False) -> None:
    """Show an endpoint with what its versions do.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client:
        found, serving = client.endpoints.get(name), client.me().serving
        usage = client.endpoints.usage(name)
    now = usage[-1].versions if usage else []
    told = {"endpoint": plain(found), "serving": serving, "usage": [plain(one) for one in now]}
    emit(told, as_json, lambda: "\n".join([line(found, serving), *_reasons(found), *(_use(found, one) for one in now)]))


def history(name: Name, limit: Limit = 20, project: InProject = "", as_json: AsJson = False) -> None:
    """Show what was wanted of an endpoint, newest first.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client:
        found = some(client.endpoints.deployments(name), limit)
    columns = {
        "deployment": lambda one: one.number,
        "at (UTC)": lambda one: moment(one.created_at),
        "by": lambda one: one.created_by,
        "traffic": lambda one: _shares(one.wanted),
        "note": lambda one: one.note,
    }
    print_list(found, as_json, columns, right=["deployment"], none="nothing was deployed yet")


def remove(name: Name, project: InProject = "", as_json: AsJson = False) -> None:
    """Remove an endpoint; what it serves stops.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client:
        client.endpoints.remove(name)
    say({"removed": name}, as_json, f"endpoint `{name}` is removed")


COMMANDS = {"show": show, "history": history, "remove": remove}


def _shares(wanted: Wanted) -> str:
    looking = (f"{number} sees {share(part)}" for number, part in wanted.shadow.items())
    return ", ".join([*(f"{number} {share(part)}" for number, part in wanted.traffic.items()), *looking])


def _reasons(found: Endpoint) -> list[str]:
    standing = found.standing
    if standing is None:
        return []
    told = [f"  {number}: {one['reason']}" for number, one in standing.versions.items() if one.get("reason")]
    return [f"  {standing.message}", *told] if standing.message else told


def _use(found: Endpoint, one: Usage) -> str:
    p50, p99 = (f"{value:.3g} ms" if value is not None else "-" for value in (one.p50_ms, one.p99_ms))
    return (
        f"  {found.model}:{one.version}  {one.requests_per_s:.3g}/s, {one.errors_per_s:.3g} errors/s, "
        f"p50 {p50}, p99 {p99}, {one.requests} since the start"
    )
