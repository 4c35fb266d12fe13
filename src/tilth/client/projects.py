"""Projects, and who is in them."""

from collections.abc import Iterator

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import Member, MemberChange, NewProject, Project, ProjectChange, Role
from tilth.client.wire import made, path_of


class Projects(Noun):
    """All projects that you are in; each method names the project that it is about.

    Every method raises TilthError as the control plane says. `match` is the etag that must still be there.
    """

    def list(self) -> Iterator[Project]:
        """Yield projects by name."""
        return pages(self.wire, Listing[Project], path_of("projects"))

    def get(self, name: str) -> Project:
        """Return a project."""
        return self.wire.get(Project, path_of("projects", name))

    def make(self, name: str, description: str = "") -> Project:
        """Make a project; you become its admin."""
        return self.wire.post(Project, path_of("projects"), made(NewProject, name=name, description=description))

    def change(self, name: str, *, description: str, match: str | None = None) -> Project:
        """Change what is said of a project."""
        order = made(ProjectChange, description=description)
        return self.wire.change(Project, "PATCH", path_of("projects", name), order, match)

    def remove(self, name: str, *, match: str | None = None) -> None:
        """Remove a project in which there is nothing."""
        self.wire.remove(path_of("projects", name), match)


class Members(Noun):
    """The members of one project."""

    def list(self) -> Iterator[Member]:
        """Yield members by name."""
        return pages(self.wire, Listing[Member], self._in("members"))

    def put(self, user: str, role: Role, *, match: str | None = None) -> Member:
        """Make a user a member, or give it another role."""
        return self.wire.change(Member, "PUT", self._in("members", user), made(MemberChange, role=role), match)

    def remove(self, user: str) -> None:
        """Take a user out of the project."""
        self.wire.remove(self._in("members", user))
