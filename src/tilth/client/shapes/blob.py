"""Blobs on their way into a project."""

from typing import Annotated

from pydantic import Field

from tilth.client.shapes.shape import Digest, Order, Shape


class Check(Order):
    """Digests to be looked for."""

    digests: Annotated[list[Digest], Field(max_length=10_000)]


class Missing(Shape):
    """Those that the project does not have."""

    missing: list[Digest]


class Kept(Shape):
    """Those that are in the project."""

    kept: list[Digest]


class NewUpload(Order):
    """A blob that is to be uploaded."""

    digest: Digest
    size_bytes: int = Field(ge=0, le=64 << 30, examples=[1_048_576])


class Upload(Shape):
    """A blob on its way: `offset` bytes of it are here. When all are, and hash to the digest, it is `done`."""

    id: str
    digest: Digest
    size_bytes: int
    offset: int
    done: bool
