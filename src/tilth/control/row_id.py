"""Ids of rows, which sort by the time at which they were made."""

import secrets
import time


def new_id() -> str:
    """Return a new id of 32 hex digits: the time in milliseconds first, so that ids grow, and 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
