"""Who may do what: roles in projects, and the one question that every route asks; pure.

A *role* is what a user is in a project, each one including those before it: a caller uses endpoints, a viewer reads, a
developer makes models and versions, an operator changes what runs, an admin says who is in the project, and which
rules of a model they all keep. An
*administrator* of the installation is all of that everywhere, makes projects and users, and reads everything that
happened. A token narrows what its user may do, to one project and to one role, and never widens it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tilth.client.errors import ForbiddenError
from tilth.core.errors import MissingError

Role = Literal["caller", "viewer", "developer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("caller", "viewer", "developer", "operator", "admin")

#: The least role that may do something in a project. What is in none of these tables nobody may do.
IN_PROJECT: Mapping[str, Role] = {
    "project.read": "viewer",
    "project.change": "admin",
    "member.read": "viewer",
    "member.change": "admin",
    "model.read": "viewer",
    "model.change": "developer",
    # Who needs a second person must not be able to do without one by taking the rule away.
    "model.rule": "admin",
    "version.push": "developer",
    "version.change": "developer",
    "version.stage": "operator",
    "endpoint.call": "caller",
    "endpoint.read": "viewer",
    "endpoint.change": "operator",
    "event.read": "viewer",
}
#: What only administrators of the installation may do.
EVERYWHERE = frozenset(("user.read", "user.change", "project.make", "node.change", "audit.read", "tracking.rule"))
#: The least role, in any project, that may do what belongs to no project: a tracking server has none.
SOMEWHERE: Mapping[str, Role] = {"tracking.read": "viewer", "tracking.write": "developer"}
#: What everyone may do who may read anything: look at machines, of which lists hold those that they may see.
ANYWHERE = frozenset(("node.read",))
#: What everyone may do who is somebody, about themselves alone.
OWN = frozenset(("me.read", "token.read", "token.make", "token.revoke", "project.list"))


@dataclass(frozen=True)
class Principal:
    """Who asks, with its roles by project id. A token's limits are `project_id` and `most`, None for none."""

    user_id: str
    name: str
    is_admin: bool = False
    roles: Mapping[str, Role] = field(default_factory=dict)
    project_id: str | None = None
    most: Role | None = None
    token_id: str = ""

    def role_in(self, project_id: str) -> Role | None:
        """Return what it is in a project, None when it is nothing there."""
        if self.project_id is not None and project_id != self.project_id:
            return None
        own = "admin" if self.is_admin else self.roles.get(project_id)
        if own is None or self.most is None:
            return own
        return min(own, self.most, key=ROLES.index)

    @property
    def highest(self) -> Role | None:
        """The highest role that it has in any project, None when it has none."""
        if self.is_admin and self.project_id is None:
            return self.most or "admin"
        known = [role for one in {*self.roles, self.project_id or ""} if (role := self.role_in(one)) is not None]
        return max(known, key=ROLES.index, default=None)

    @property
    def is_narrow(self) -> bool:
        """Whether a token allows less than its user may do."""
        return self.project_id is not None or self.most is not None

    @property
    def rules(self) -> bool:
        """Whether it is an administrator of the installation, and its token allows all of that."""
        return self.is_admin and not self.is_narrow

    def readable(self) -> list[str] | None:
        """Return the ids of projects that it may read, None for all of them."""
        if self.is_admin and self.project_id is None:
            return None if self.most != "caller" else []
        known = {*self.roles, *([self.project_id] if self.project_id is not None else [])}
        return sorted(one for one in known if self.role_in(one) not in (None, "caller"))


def check(principal: Principal, action: str, project_id: str | None = None) -> None:
    """Return when `principal` may do `action`, in a project where it is about one.

    Raises:
        MissingError: it is nothing in the project, which then is not there for it either.
        ForbiddenError: it may not do this.
        KeyError: there is no such action.
    """
    if action in OWN:
        return
    if action in ANYWHERE:
        if principal.readable() == []:
            raise _forbidden(principal, action, "a viewer of some project")
        return
    if action in SOMEWHERE:
        if ROLES.index(principal.highest or ROLES[0]) < ROLES.index(SOMEWHERE[action]):
            raise _forbidden(principal, action, f"a {SOMEWHERE[action]} of some project")
        return
    if action in EVERYWHERE:
        if not principal.rules:
            raise _forbidden(principal, action, "an administrator of this installation")
        return
    least = IN_PROJECT[action]
    role = principal.role_in(project_id) if project_id is not None else None
    if role is None:
        raise no_project()
    if ROLES.index(role) < ROLES.index(least):
        raise _forbidden(principal, action, f"a project's {least}, and you are its {role}")


def no_project() -> MissingError:
    """Return what is said of a project that is not there, or not for who asks: the same words for both."""
    return MissingError("there is no such project", hint="`tilth projects` lists those that you are in")


def _forbidden(principal: Principal, action: str, who: str) -> ForbiddenError:
    limited = "; this token allows less than you may do" if principal.is_narrow else ""
    return ForbiddenError(
        f"`{principal.name}` may not do `{action}`", why=f"it is for {who}{limited}", hint="ask an admin of the project"
    )
