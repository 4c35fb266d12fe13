"""`tilth events`: what happened, as the audit log has it."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit
from tilth.cli.plain import print_json, visible
from tilth.cli.remote import InProject, Limit, plain, some
from tilth.client.client import Client
from tilth.client.shapes.event import Event
from tilth.core.errors import UntrustedError

_US = 1_000_000


def command(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens; Ctrl-C ends it.")] = False,
    everywhere: Annotated[bool, typer.Option("--all", help="Of all projects and the installation.")] = False,
    after: Annotated[
        int | None, typer.Option("--after", min=0, help="Only what came behind the event of this number.")
    ] = None,
    limit: Limit = 50,
    check: Annotated[bool, typer.Option("--check", help="Check that the audit log is what was written.")] = False,
    export: Annotated[bool, typer.Option("--export", help="The whole audit log, an event in JSON per line.")] = False,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Show what happened, follow it, export it, or check the audit log.

    The newest come last, as in a log. With --follow --json every event is one line of JSON.

    Raises:
        UntrustedError: the audit log is not what was written.
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client:
        if check:
            _check(client, as_json)
        elif export:
            _lines(client.events.export(after=after or 0))
        else:
            found = _recent(client, after, limit, everywhere)
            if not follow:
                emit(
                    [plain(one) for one in found],
                    as_json,
                    lambda: "\n".join(map(line, found)) or "nothing happened yet",
                )
                return
            last = found[-1].seq if found else after or 0
            _lines(found, as_json)
            _lines(client.events.follow(after=last, everywhere=everywhere), as_json)


def line(event: Event) -> str:
    """Return an event for people, the time in UTC."""
    at = datetime.fromtimestamp(event.at_us / _US, UTC).strftime("%Y-%m-%d %H:%M:%S")
    more = " ".join(f"{name}={_short(value)}" for name, value in event.details.items())
    return visible(f"{event.seq:>6}  {at}  {event.actor}  {event.action}  {event.subject}  {more}".rstrip())


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _recent(client: Client, after: int | None, limit: int, everywhere: bool) -> list[Event]:
    if after is not None:
        return some(client.events.list(after=after, everywhere=everywhere), limit)
    return some(client.events.list(newest=True, everywhere=everywhere), limit)[::-1]


def _lines(found: Iterable[Event], as_json: bool = True) -> None:
    for event in found:
        typer.echo(json.dumps(plain(event), ensure_ascii=False) if as_json else line(event))


def _check(client: Client, as_json: bool) -> None:
    chain = client.events.check()
    if not chain.sound:
        raise UntrustedError("the audit log is not what was written", why=chain.why, hint="compare it with an export")
    if as_json:
        print_json(plain(chain))
    else:
        typer.echo(f"the audit log is sound: {chain.events} events, the last with hash {chain.hash}")
