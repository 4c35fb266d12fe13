"""What every page has around it: who looks, which projects there are, where one is, and what was done a moment ago."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from tilth.client.errors import ForbiddenError
from tilth.control import access
from tilth.control.api import problem
from tilth.control.api.desk import Call
from tilth.control.console.cookie import THEMES, Preference
from tilth.control.console.form import Form
from tilth.control.console.proof import mark
from tilth.control.console.words import at
from tilth.control.records import projects
from tilth.control.store.tables import projects as project_table
from tilth.core.errors import MissingError, TilthError

#: What can be said after a form, by the word that the address carries: an address never brings a text of its own.
DONE: Final = {
    "alias-removed": "The alias is removed.",
    "alias-set": "The alias names this version.",
    "asked": "A second person is asked: the version changes its stage when another operator accepts.",
    "changed": "The change is kept.",
    "decided": "Your decision is kept.",
    "deployed": "The deployment is on its way. What answers is shown below as it changes.",
    "endpoint-made": "The endpoint is there. Deploy a version to it, and it answers.",
    "endpoint-removed": "The endpoint is removed, and what it served stops.",
    "member-put": "The member is in the project.",
    "member-removed": "The member is out of the project.",
    "model-made": "The model is there. Push a bundle to it.",
    "model-removed": "The model is removed.",
    "node-removed": "The node is forgotten.",
    "project-made": "The project is there, and you are its admin.",
    "project-removed": "The project is removed.",
    "promoted": "The version is to answer everything. What answers is shown below as it changes.",
    "revoked": "The token is revoked, and every session that it opened has ended.",
    "rolled-back": "The endpoint goes back. What answers is shown below as it changes.",
    "shifted": "The traffic is being shifted. What answers is shown below as it changes.",
    "staged": "The version is in its new stage.",
    "user-changed": "The user is changed.",
    "user-made": "The user is there. Make a token for it below, and hand that over.",
    "version-removed": "The version is removed.",
}
_MOST_PROJECTS = 30


@dataclass(frozen=True)
class Trouble:
    """A form that was refused: which, why, and what was typed into it."""

    form: str
    error: TilthError
    given: Form


@dataclass(frozen=True)
class Ask:
    """A request for a page. `secret` is that of its session; `https` says how it came.

    `here` is the address of the page, `base` that of the control plane, as the browser has it.
    `is_part` says that a script asks for it, and puts a part of it into the page that is there.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Form = field(default_factory=Form)
    secret: str = ""
    https: bool = False
    here: str = ""
    base: str = ""
    is_part: bool = False
    preference: Preference = field(default_factory=Preference)
    trouble: Trouble | None = None

    def given(self, form: str, name: str, default: object = "") -> object:
        """Return what was typed into a form that was refused, else `default`."""
        if self.trouble is None or self.trouble.form != form or not self.trouble.given.has(name):
            return default
        return self.trouble.given.lines(name)

    def ticked(self, form: str, name: str, value: str, default: bool = False) -> bool:
        """Return whether a box of a form that was refused was ticked, else `default`."""
        if self.trouble is None or self.trouble.form != form:
            return default
        return value in self.trouble.given.every(name)


@dataclass(frozen=True)
class Page:
    """A page to be made of a template. `section` is the entry of the menu that it belongs to."""

    template: str
    section: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Go:
    """Where to go after a form, with a word for what was done."""

    to: str
    done: str = ""

    @property
    def address(self) -> str:
        """The address with the word."""
        path, hash_mark, part = self.to.partition("#")
        joint = "&" if "?" in path else "?"
        return (f"{path}{joint}done={self.done}" if self.done else path) + hash_mark + part


def around(call: Call, ask: Ask, section: str) -> dict[str, Any]:
    """Return the values that every page gets."""
    listed = projects.listed(call.connection, call.principal, "", _MOST_PROJECTS)
    current = _current(call, ask)
    return {
        "ask": ask,
        "csrf": mark(ask.secret),
        "done": DONE.get(ask.query.get("done", ""), ""),
        "given": ask.given,
        "may": lambda action: _may(call, action, current["id"] if current else None),
        "more_projects": bool(listed.next),
        "project": current["name"] if current else "",
        "projects": [one.name for one in listed.items],
        "role": call.principal.role_in(current["id"]) if current else None,
        "rules": call.principal.rules,
        # What is put into a page that is there finds the scripts there.
        "scripts": not ask.is_part,
        "section": section,
        "theme": ask.preference.theme,
        "themes": THEMES,
        "ticked": ask.ticked,
        "trouble": _trouble(ask.trouble),
        "user": call.principal.name,
    }


def home(call: Call, ask: Ask) -> str:
    """Return where somebody begins who names no page: in the project looked at last, or in the first one."""
    current = _current(call, ask)
    return at("p", current["name"]) if current else at("projects")


def _current(call: Call, ask: Ask) -> sa.RowMapping | None:
    """Return the project of the path, else the one looked at last, else the first that may be read."""
    if call.project:
        return call.project
    readable = call.principal.readable()
    query = sa.select(project_table).order_by(project_table.c.name).limit(1)
    if readable is not None:
        query = query.where(project_table.c.id.in_(readable))
    named = query.where(project_table.c.name == ask.preference.project)
    row = call.connection.execute(named).mappings().first() if ask.preference.project else None
    return row or call.connection.execute(query).mappings().first()


def _may(call: Call, action: str, project_id: str | None) -> bool:
    try:
        access.check(call.principal, action, project_id)
    except (ForbiddenError, MissingError):
        return False
    return True


def _trouble(trouble: Trouble | None) -> dict[str, Any] | None:
    if trouble is None:
        return None
    error = trouble.error
    return {"what": error.what, "why": error.why, "hint": error.hint, "status": problem.status(error)}
