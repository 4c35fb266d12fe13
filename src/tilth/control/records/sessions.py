"""Who is signed in at the console: a random secret in a cookie, of which the hash is kept."""

import sqlalchemy as sa

from tilth.client.errors import UnknownError
from tilth.control import secret
from tilth.control.change import Change
from tilth.control.oidc import Identity, taken
from tilth.control.records import principals, users
from tilth.control.store.tables import sessions
from tilth.control.store.tables import users as user_table

#: How long a session is good for.
LASTS_US = 12 * 3600 * 1_000_000


def begin(change: Change, how: str) -> str:
    """Sign in whoever the change is on behalf of, and return the secret; `how` is for the audit log.

    A session that a token opened ends with the token and allows no more than it.
    """
    asks, made = change.principal, secret.made()
    row = {
        "hash": secret.hashed(made),
        "user_id": asks.user_id,
        "token_id": asks.token_id or None,
        "expires_us": change.at_us + LASTS_US,
        "created_us": change.at_us,
    }
    change.connection.execute(sessions.insert().values(row))
    change.tell("session.begin", f"users/{asks.name}", how=how)
    return made


def of_external(change: Change, identity: Identity) -> str:
    """Sign in who comes through an identity provider, a new user at the first time, and return the secret.

    Raises:
        ConflictError: the name is that of a user who is not the provider's.
        UnknownError: the user is disabled.
    """
    connection = change.connection
    row = users.external(connection, identity.subject)
    if row is None:
        if connection.execute(sa.select(user_table.c.id).where(user_table.c.name == identity.name)).first():
            raise taken(identity.name)
        users.make(change, identity.name, subject=identity.subject)
        row = users.found(connection, identity.name)
    if row["disabled"]:
        raise UnknownError("you are not signed in", why="this user is disabled", hint="ask an administrator")
    own = Change(connection, principals.of_user(connection, row), change.at_us, change.events)
    return begin(own, "identity provider")


def end(change: Change, hashed: str) -> None:
    """Sign out; a session that is not there is no error."""
    change.connection.execute(sessions.delete().where(sessions.c.hash == hashed))
    change.tell("session.end", f"users/{change.principal.name}")
