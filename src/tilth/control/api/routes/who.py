"""`/v1/me`, users, tokens, projects and members."""

from collections.abc import Callable

from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import (
    MadeToken,
    Me,
    Member,
    MemberChange,
    NewProject,
    NewToken,
    NewUser,
    Project,
    ProjectChange,
    Token,
    User,
    UserChange,
)
from tilth.control.api.desk import DEFAULT_LIMIT, Call, Cursor, Desk, Limit
from tilth.control.records import projects, tokens, users
from tilth.control.store.tables import projects as project_table
from tilth.core.version import VERSION

_PROJECT = "/v1/projects/{project}"


def declare(desk: Desk, serving: Callable[[], str]) -> None:
    """Declare the routes; `serving` tells where endpoints answer."""
    _me(desk, serving)
    _users(desk)
    _tokens(desk)
    _projects(desk)
    _members(desk)


def _me(desk: Desk, serving: Callable[[], str]) -> None:
    @desk.read("/v1/me", "me.read", summary="Who asks, and what it may do")
    def get_me(call: Call) -> Me:
        asks = call.principal
        known = {*asks.roles, asks.project_id or ""}
        query = project_table.select().where(project_table.c.id.in_(sorted(known)))
        names = {row.id: row.name for row in call.connection.execute(query)}
        found = {names[one]: asks.role_in(one) for one in asks.roles if one in names}
        roles = {name: role for name, role in found.items() if role is not None}
        limit = names.get(asks.project_id or "")
        return Me(
            user=asks.name,
            token=asks.token_id,
            is_admin=asks.is_admin,
            roles=roles,
            project=limit,
            role=asks.most,
            version=VERSION,
            serving=serving(),
        )


def _users(desk: Desk) -> None:
    @desk.read("/v1/users", "user.read", summary="List users")
    def list_users(call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[User]:
        return users.listed(call.connection, cursor, limit)

    @desk.change("POST", "/v1/users", "user.change", summary="Make a user", status=201)
    def make_user(call: Call, body: NewUser) -> User:
        return users.make(call.change, body.name, is_admin=body.is_admin)

    @desk.read("/v1/users/{user}", "user.read", summary="Get a user")
    def get_user(call: Call, user: str) -> User:
        return users.get(call.connection, user)

    @desk.change("PATCH", "/v1/users/{user}", "user.change", summary="Change a user")
    def change_user(call: Call, user: str, body: UserChange) -> User:
        return users.alter(call.change, user, body, call.match)


def _tokens(desk: Desk) -> None:
    @desk.read("/v1/tokens", "token.read", summary="List your tokens; all of them for an administrator")
    def list_tokens(call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Token]:
        return tokens.listed(call.connection, call.principal, cursor, limit)

    @desk.change("POST", "/v1/tokens", "token.make", summary="Make a token", status=201, once=True)
    def make_token(call: Call, body: NewToken) -> MadeToken:
        return tokens.make(call.change, body)

    @desk.read("/v1/tokens/{token}", "token.read", summary="Get a token, without its secret")
    def get_token(call: Call, token: str) -> Token:
        return tokens.get(call.connection, call.principal, token)

    @desk.change("DELETE", "/v1/tokens/{token}", "token.revoke", summary="Revoke a token")
    def revoke_token(call: Call, token: str) -> None:
        tokens.revoke(call.change, token, call.match)


def _projects(desk: Desk) -> None:
    @desk.read("/v1/projects", "project.list", summary="List the projects that you are in")
    def list_projects(call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Project]:
        return projects.listed(call.connection, call.principal, cursor, limit)

    @desk.change("POST", "/v1/projects", "project.make", summary="Make a project", status=201)
    def make_project(call: Call, body: NewProject) -> Project:
        return projects.make(call.change, body.name, body.description)

    @desk.read(_PROJECT, "project.read", summary="Get a project")
    def get_project(call: Call) -> Project:
        return projects.shape(call.project, call.principal)

    @desk.change("PATCH", _PROJECT, "project.change", summary="Change a project")
    def change_project(call: Call, body: ProjectChange) -> Project:
        return projects.alter(call.change, call.project, body, call.match)

    @desk.change("DELETE", _PROJECT, "project.change", summary="Remove an empty project")
    def remove_project(call: Call) -> None:
        projects.remove(call.change, call.project, call.match)


def _members(desk: Desk) -> None:
    @desk.read(f"{_PROJECT}/members", "member.read", summary="List the members of a project")
    def list_members(call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Member]:
        return projects.members_of(call.connection, call.project["id"], cursor, limit)

    @desk.change("PUT", f"{_PROJECT}/members/{{user}}", "member.change", summary="Make a user a member")
    def put_member(call: Call, user: str, body: MemberChange) -> Member:
        return projects.put_member(call.change, call.project, user, body, call.match)

    @desk.change("DELETE", f"{_PROJECT}/members/{{user}}", "member.change", summary="Take a user out of a project")
    def remove_member(call: Call, user: str) -> None:
        projects.remove_member(call.change, call.project, user, call.match)
