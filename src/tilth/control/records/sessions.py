"""Who is signed in at the console: a random secret in a cookie, of which the hash is kept."""

from tilth.control import secret
from tilth.control.change import Change
from tilth.control.store.tables import sessions

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


def end(change: Change, hashed: str) -> None:
    """Sign out; a session that is not there is no error."""
    change.connection.execute(sessions.delete().where(sessions.c.hash == hashed))
    change.tell("session.end", f"users/{change.principal.name}")
