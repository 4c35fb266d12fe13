"""Users, their tokens, and projects with their members."""

from typing import Annotated, Literal

from pydantic import Field

from tilth.client.shapes.shape import Etag, Order, Shape, Text, Time

Role = Literal["viewer", "developer", "operator", "admin"]
#: What a token may be narrowed to; a caller uses endpoints and sees nothing else.
TokenRole = Literal["caller", "viewer", "developer", "operator", "admin"]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class User(Shape):
    """Somebody, or a service, that may have tokens. `external` users sign in through an identity provider."""

    id: str
    name: str = Field(examples=["ann"])
    is_admin: bool
    disabled: bool
    external: bool
    created_at: Time
    etag: Etag


class NewUser(Order):
    """A user to be made."""

    name: Name = Field(examples=["ann"])
    is_admin: bool = False


class UserChange(Order):
    """What to change of a user; what is left out stays."""

    is_admin: bool | None = Field(default=None, examples=[False])
    disabled: bool | None = Field(default=None, examples=[True])


class Token(Shape):
    """A token without its secret, which is not kept."""

    id: str
    name: str = Field(examples=["ci"])
    user: str = Field(examples=["ann"])
    project: str | None = Field(examples=["default"])
    role: TokenRole | None
    expires_at: Time | None
    revoked_at: Time | None
    created_at: Time
    etag: Etag


class NewToken(Order):
    """A token to be made. It allows no more than its user may, and no more than the token that makes it."""

    name: Name = Field(examples=["ci"])
    user: str | None = Field(default=None, description="Whose it is; an administrator may name another user.")
    project: str | None = Field(default=None, description="The one project that it is for; none: all of the user's.")
    role: TokenRole | None = Field(default=None, description="The most that it allows; none: all that the user may.")
    expires_in_s: int | None = Field(default=None, ge=60, le=10 * 366 * 86400, examples=[7_776_000])


class MadeToken(Token):
    """A new token with its secret, which is shown this once."""

    secret: str = Field(examples=["tilth_..."])


class Me(Shape):
    """Who asks, and what it may do: roles by project; `project` and `role` are the limits of its token.

    `token` is the id of that token, empty for a browser.
    """

    user: str
    token: str = ""
    is_admin: bool
    roles: dict[str, TokenRole]
    project: str | None
    role: TokenRole | None
    version: str = Field(description="Of the control plane.")
    serving: str = Field(description="URL where endpoints answer, empty when nothing is served.")


class Project(Shape):
    """A name space of models and endpoints, with members."""

    id: str
    name: str = Field(examples=["default"])
    description: str
    role: TokenRole | None = Field(description="What you are in it.")
    created_at: Time
    etag: Etag


class NewProject(Order):
    """A project to be made; whoever makes it becomes its admin."""

    name: Name = Field(examples=["fraud-team"])
    description: Text = ""


class ProjectChange(Order):
    """What to change of a project."""

    description: Text = Field(examples=["cards and loans"])


class Member(Shape):
    """A user in a project."""

    user: str = Field(examples=["ann"])
    role: Role
    created_at: Time
    etag: Etag


class MemberChange(Order):
    """The role that a user is to have in a project."""

    role: Role = Field(examples=["developer"])
