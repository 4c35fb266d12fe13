"""Oneself and one's tokens; and for administrators, users."""

from typing import Any, Final

import sqlalchemy as sa

from tilth.client.shapes.who import NewToken, NewUser, UserChange
from tilth.control.access import ROLES
from tilth.control.api.desk import Call
from tilth.control.console.door import Door
from tilth.control.console.frame import Ask, Go, Page
from tilth.control.console.order import order
from tilth.control.console.words import at
from tilth.control.records import projects, tokens, users
from tilth.control.store.tables import projects as project_table
from tilth.core.errors import InvalidError

#: How long a token is good for, in seconds by the word for it; None for ever.
TIMES: Final = {
    "hour": 3600,
    "day": 86400,
    "month": 30 * 86400,
    "quarter": 90 * 86400,
    "year": 366 * 86400,
    "ever": None,
}
_ROWS = 50
_ACCOUNT, _USERS = "/console/account", "/console/users"


def declare(door: Door) -> None:
    """Declare the pages and forms."""

    @door.page(_ACCOUNT, "token.read")
    def account(call: Call, ask: Ask) -> Page:
        return Page("account", "account", _values(call, ask))

    @door.form(f"{_ACCOUNT}/tokens", "token.make", "token", account)
    def make_token(call: Call, ask: Ask) -> Page:
        lasts = ask.form.text("lasts", "quarter")
        if lasts not in TIMES:
            raise InvalidError("there is no such time", hint="choose one of the list")
        wanted = order(
            NewToken,
            name=ask.form.text("name"),
            user=ask.form.text("user") or None,
            project=ask.form.text("project") or None,
            role=ask.form.text("role") or None,
            expires_in_s=TIMES[lasts],
        )
        return Page("token_made", "account", {"made": tokens.make(call.change, wanted)})

    @door.form(f"{_ACCOUNT}/tokens/{{token}}/revoke", "token.revoke", "revoke", account)
    def revoke(call: Call, ask: Ask) -> Go:
        tokens.revoke(call.change, ask.path["token"])
        return Go(at("account"), "revoked")

    _users(door)


def _values(call: Call, ask: Ask) -> dict[str, Any]:
    asks = call.principal
    found = tokens.listed(call.connection, asks, ask.query.get("cursor", ""), _ROWS)
    names = call.connection.execute(
        sa.select(project_table.c.id, project_table.c.name).where(project_table.c.id.in_(list(asks.roles)))
    )
    return {
        "tokens": found.items,
        "next": found.next,
        "in_projects": projects.listed(call.connection, asks, "", 200).items,
        "roles": sorted((name, asks.role_in(one) or "") for one, name in names),
        "limit": asks.most,
        "is_narrow": asks.is_narrow,
        "is_admin": asks.is_admin,
        "token_roles": ROLES,
        "times": TIMES,
        "this_token": asks.token_id,
        "for_user": ask.query.get("user", "")[:64],
    }


def _users(door: Door) -> None:
    @door.page(_USERS, "user.read")
    def list_users(call: Call, ask: Ask) -> Page:
        found = users.listed(call.connection, ask.query.get("cursor", ""), _ROWS)
        return Page("users", "users", {"users": found.items, "next": found.next})

    @door.form(f"{_USERS}/make", "user.change", "make", list_users)
    def make_user(call: Call, ask: Ask) -> Go:
        wanted = order(NewUser, name=ask.form.text("name"), is_admin=ask.form.has("is_admin"))
        users.make(call.change, wanted.name, is_admin=wanted.is_admin)
        return Go(at("users"), "user-made")

    @door.form(f"{_USERS}/{{user}}/change", "user.change", "change", list_users)
    def change_user(call: Call, ask: Ask) -> Go:
        wanted = {name: ask.form.text(name) == "yes" for name in ("is_admin", "disabled") if ask.form.has(name)}
        users.alter(call.change, ask.path["user"], order(UserChange, **wanted), call.match)
        return Go(at("users"), "user-changed")
