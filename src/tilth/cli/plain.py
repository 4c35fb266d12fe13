"""The least that printing takes: one JSON document, and text that cannot steer a terminal."""

import json
import sys
from typing import Any


def print_json(data: Any) -> None:
    """Print one JSON document on stdout, indented by 2, keys sorted, so that two can be compared line by line.

    Raises:
        ValueError: `data` holds NaN or an infinity, which JSON cannot say.
    """
    sys.stdout.write(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def visible(text: str) -> str:
    """Return `text` with control characters escaped; a name from a file may hold any."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
