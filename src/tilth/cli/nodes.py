"""`tilth nodes`: the machines of the pool and the chips on them."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson
from tilth.cli.remote import MANY, Limit, moment, print_list, say, some
from tilth.client.client import Client


def command(ctx: typer.Context, limit: Limit = MANY, as_json: AsJson = False) -> None:
    """List machines of the pool with their devices, or remove one.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in() as client:
        found = some(client.nodes.list(), limit)
    columns = {
        "node": lambda one: one.name,
        "project": lambda one: one.project or "everyone's",
        "devices": lambda one: one.devices,
        "labels": lambda one: ", ".join(f"{name}={value}" for name, value in one.labels.items()),
        "seen (UTC)": lambda one: moment(one.seen_at),
    }
    print_list(found, as_json, columns, right=["devices"], none="no node is known")


def devices(
    node: Annotated[str, typer.Argument(help="Only those of one node.")] = "",
    target: Annotated[str, typer.Option("--target", help="Only those of one target, such as cpu-aarch64.")] = "",
    limit: Limit = MANY,
    as_json: AsJson = False,
) -> None:
    """List the chips on the machines of the pool.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        found = some(client.devices.list(node=node, target=target), limit)
    columns = {
        "node": lambda one: one.node,
        "device": lambda one: one.name,
        "target": lambda one: one.target,
        "facts": lambda one: ", ".join(f"{name} {value}" for name, value in one.facts.items()),
    }
    print_list(found, as_json, columns, none="no device is known")


def remove(node: Annotated[str, typer.Argument(help="The node.")], as_json: AsJson = False) -> None:
    """Forget a machine; one that is still there tells of itself again.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        client.nodes.remove(node)
    say({"removed": node}, as_json, f"node `{node}` is forgotten")


COMMANDS = {"devices": devices, "remove": remove}
