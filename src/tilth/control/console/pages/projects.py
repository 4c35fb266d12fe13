"""Projects to choose from, and one project's description and members."""

from typing import Final

from tilth.client.shapes.who import MemberChange, NewProject, ProjectChange
from tilth.control.api.desk import Call
from tilth.control.console.door import PROJECT, Door
from tilth.control.console.frame import Ask, Go, Page
from tilth.control.console.order import order
from tilth.control.console.words import at
from tilth.control.records import projects
from tilth.core.errors import InvalidError

#: What a member can be.
ROLES: Final = ("viewer", "developer", "operator", "admin")
_ALL, _ONE = "/console/projects", f"{PROJECT}/settings"
_ROWS = 100


def declare(door: Door) -> None:
    """Declare the pages and forms."""

    @door.page(_ALL, "project.list")
    def list_projects(call: Call, ask: Ask) -> Page:
        found = projects.listed(call.connection, call.principal, ask.query.get("cursor", ""), _ROWS)
        return Page("projects", "projects", {"listed": found.items, "next": found.next})

    @door.form(f"{_ALL}/make", "project.make", "make", list_projects)
    def make_project(call: Call, ask: Ask) -> Go:
        wanted = order(NewProject, name=ask.form.text("name"), description=ask.form.lines("description"))
        projects.make(call.change, wanted.name, wanted.description)
        return Go(at("p", wanted.name), "project-made")

    _settings(door)


def _settings(door: Door) -> None:
    @door.page(_ONE, "member.read")
    def settings(call: Call, ask: Ask) -> Page:
        shown = projects.shape(call.project, call.principal)
        found = projects.members_of(call.connection, call.project["id"], ask.query.get("cursor", ""), _ROWS)
        return Page(
            "settings", "settings", {"shown": shown, "members": found.items, "next": found.next, "roles": ROLES}
        )

    @door.form(f"{_ONE}/change", "project.change", "change", settings)
    def change(call: Call, ask: Ask) -> Go:
        wanted = order(ProjectChange, description=ask.form.lines("description"))
        projects.alter(call.change, call.project, wanted, call.match)
        return _back(call, "changed")

    @door.form(f"{_ONE}/members", "member.change", "member", settings)
    def put_member(call: Call, ask: Ask) -> Go:
        wanted = order(MemberChange, role=ask.form.text("role"))
        projects.put_member(call.change, call.project, ask.form.text("user"), wanted, call.match)
        return _back(call, "member-put")

    @door.form(f"{_ONE}/members/remove", "member.change", "member-remove", settings)
    def remove_member(call: Call, ask: Ask) -> Go:
        projects.remove_member(call.change, call.project, ask.form.text("user"))
        return _back(call, "member-removed")

    @door.form(f"{_ONE}/remove", "project.change", "remove", settings)
    def remove(call: Call, ask: Ask) -> Go:
        if ask.form.text("name") != call.project["name"]:
            raise InvalidError(
                "the project is not removed", why="the name that was typed is another", hint="type its name"
            )
        projects.remove(call.change, call.project, call.match)
        return Go(at("projects"), "project-removed")


def _back(call: Call, done: str) -> Go:
    return Go(at("p", call.project["name"], "settings"), done)
