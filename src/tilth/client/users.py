"""Users of the installation."""

from collections.abc import Iterator

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import NewUser, User, UserChange
from tilth.client.wire import made, path_of


class Users(Noun):
    """Users, for administrators. Every method raises TilthError as the control plane says."""

    def list(self) -> Iterator[User]:
        """Yield users by name."""
        return pages(self.wire, Listing[User], path_of("users"))

    def get(self, name: str) -> User:
        """Return a user."""
        return self.wire.get(User, path_of("users", name))

    def make(self, name: str, *, is_admin: bool = False) -> User:
        """Make a user, who can do nothing before it is a member of some project or has a token."""
        return self.wire.post(User, path_of("users"), made(NewUser, name=name, is_admin=is_admin))

    def change(
        self, name: str, *, is_admin: bool | None = None, disabled: bool | None = None, match: str | None = None
    ) -> User:
        """Change a user; what is None stays."""
        order = made(UserChange, is_admin=is_admin, disabled=disabled)
        return self.wire.change(User, "PATCH", path_of("users", name), order, match)
