"""The two kinds of things on the wire, and the form of a list."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")

#: Key and value in free text, for people and for programs outside; at most 64 of them.
Tags = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")],
        Annotated[str, Field(max_length=1024)],
    ],
    Field(max_length=64, examples=[{"team": "risk"}]),
]
Text = Annotated[str, Field(max_length=4096)]
#: UTC, ISO 8601, with microseconds.
Time = Annotated[str, Field(examples=["2026-11-27T08:30:00.000000Z"])]
#: What to send as If-Match, so that nobody else's change is overwritten.
Etag = Annotated[str, Field(examples=['"1"'])]
Digest = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", examples=["2b04963da6847b0abcc3c68165edc3600fa515a303ab748b99c758d686162653"])
]


class Shape(BaseModel):
    """What the control plane answers. Fields that a client does not know are left out, so that it may be the older."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Order(BaseModel):
    """What a client asks for. A field that is not known is an error: it may be the one that matters."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Listing(Shape, Generic[Item]):
    """A page of a list. `next` is the cursor of the next page, empty at the end."""

    items: list[Item]
    next: str = Field(default="", examples=[""])


class Problem(Shape):
    """Why a request failed (RFC 9457), said as what, why and what to try."""

    type: str = Field(examples=["tilth:missing"])
    title: str = Field(examples=["there is no such project"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=[""])
    error: str = Field(examples=["MissingError"])
    what: str = Field(examples=["there is no such project"])
    why: str = Field(examples=[""])
    hint: str = Field(examples=["`tilth projects` lists those that you are in"])
