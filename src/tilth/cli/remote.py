"""What the commands that talk to a control plane have in common: who you are there, and about which project."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from tilth.cli.output import emit, table
from tilth.core.errors import InvalidError

#: The `--project` option of every command that is about one.
InProject = Annotated[str, typer.Option("--project", "-p", help="The project; default: the one of `tilth login`.")]
#: The `--limit` option of lists that may be long.
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to show at most.")]
MANY = 1000


def plain(shape: BaseModel) -> dict[str, Any]:
    """Return what came from a control plane as JSON types."""
    made: dict[str, Any] = shape.model_dump(mode="json")
    return made


def some(found: Iterable[Any], limit: int) -> list[Any]:
    """Return the first `limit` of a list that comes in pages; the pages behind them are not asked for."""
    return list(islice(found, limit))


def print_list(
    found: Sequence[BaseModel], as_json: bool, columns: Mapping[str, Any], *, right: Sequence[str] = (), none: str
) -> None:
    """Print a list as JSON, or as a table with a function for each column; `none` is said where it is empty."""
    if not found and not as_json:
        typer.echo(none)
        return
    rows = [[cell(one) for cell in columns.values()] for one in found]
    emit([plain(one) for one in found], as_json, lambda: table(list(columns), rows, right=right))


def say(told: BaseModel | Mapping[str, Any], as_json: bool, line: str) -> None:
    """Print what a change has come to, or one line that says so."""
    emit(plain(told) if isinstance(told, BaseModel) else dict(told), as_json, lambda: line)


def parsed_tags(given: Sequence[str] | None) -> dict[str, str] | None:
    """Return `NAME=VALUE` texts by name, None for none at all.

    Raises:
        InvalidError: one has no `=`.
    """
    if given is None:
        return None
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidError(f"`{text}` is not a tag", hint="write NAME=VALUE, such as site=hamburg")
        found[name] = value
    return found


def moment(text: Any) -> str:
    """Return a time for people, in UTC to the second, empty for none."""
    return "" if text is None else str(text)[:19].replace("T", " ")


def share(percent: float) -> str:
    """Return a share in percent: `12.5%`."""
    return f"{percent:g}%"


def parsed_percent(text: str) -> float:
    """Return what `10%` or `10` says, 0 to 100.

    Raises:
        InvalidError: it is no share.
    """
    try:
        found = float(text.strip().removesuffix("%"))
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise InvalidError(f"`{text}` is not a share", why="it is 0% to 100%", hint="write it such as `10%`")
    return found


def parsed_age_s(text: str) -> int:
    """Return what `90d`, `12h` or `30m` says in seconds.

    Raises:
        InvalidError: it is none of these.
    """
    units = {"d": "days", "h": "hours", "m": "minutes"}
    if text[:-1].isascii() and text[:-1].isdigit() and len(text) < 8 and text[-1:] in units:
        return int(timedelta(**{units[text[-1]]: int(text[:-1])}).total_seconds())
    raise InvalidError(f"`{text}` is not a duration", hint="write days, hours or minutes, such as 90d, 12h or 30m")
