"""Lists that are longer than an answer, page after page."""

from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel

from tilth.client.shapes.shape import Listing
from tilth.client.wire import Query, Wire
from tilth.core.errors import UnavailableError

#: The most rows that the API puts on a page.
PAGE = 200
Row = TypeVar("Row", bound=BaseModel)


def pages(
    wire: Wire, shape: type[Listing[Row]], path: str, query: Query | None = None, *, cursor: str = "cursor"
) -> Iterator[Row]:
    """Yield the rows of a list; a page is asked for when its first row is wanted.

    `cursor` is what the API calls the place where a page begins.

    Raises:
        TilthError: as the control plane says.
    """
    asked: dict[str, str | int | bool] = {"limit": PAGE, **(query or {})}
    while True:
        page = wire.get(shape, path, asked)
        yield from page.items
        if not page.next:
            return
        if page.next == asked.get(cursor) or not page.items:
            raise UnavailableError(f"the list at `{path}` does not end", why="a page names itself as the next one")
        asked[cursor] = page.next
