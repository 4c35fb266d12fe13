"""From what was typed into a form to what the API would be asked for, by the same rules."""

from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from tilth.control.api import problem
from tilth.core.errors import InvalidError

Order = TypeVar("Order", bound=BaseModel)


def order(kind: type[Order], **fields: Any) -> Order:
    """Return an order of the API.

    Raises:
        InvalidError: it breaks one of the API's rules.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise problem.not_understood(cast("list[dict[str, Any]]", error.errors())) from None


def tags(text: str) -> dict[str, str]:
    """Return the tags in lines of `key=value`; empty lines are none.

    Raises:
        InvalidError: a line has no `=`, or a key is there twice.
    """
    made: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        key, sign, value = line.partition("=")
        key = key.strip()
        if not sign or key in made:
            raise InvalidError(
                f"`{problem.shown(line)}` is no tag",
                why="its key is there twice" if sign else "it has no `=`",
                hint="write one `key=value` on each line",
            )
        made[key] = value.strip()
    return made


def as_lines(found: dict[str, str]) -> str:
    """Return tags as lines of a form."""
    return "\n".join(f"{key}={value}" for key, value in sorted(found.items()))
