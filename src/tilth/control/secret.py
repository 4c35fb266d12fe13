"""Secrets: made at random, shown once, and kept as a hash; pure but for the random numbers."""

import hashlib
import re
import secrets

#: So that scanners of source code know one when they see it.
PREFIX = "tilth_"
_FORM = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")


def made() -> str:
    """Return a new secret of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(secret: str) -> str | None:
    """Return what a secret is kept as, None for what cannot be one.

    A plain SHA-256 does: it is the slowness of a hash that protects short secrets, and these are not.
    """
    return hashlib.sha256(secret.encode()).hexdigest() if _FORM.fullmatch(secret) else None
