"""What of a request may reach a tracking server: its rule, and names that stay where they are; pure.

What was looked at is what is passed on: a path is decoded once and written anew, JSON is parsed and written anew, and
so the server cannot read another thing in it than was read here.
"""

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from tilth.client.errors import ForbiddenError
from tilth.control.api.problem import TooLargeError, shown
from tilth.core.errors import InvalidError, MissingError, UnsupportedError
from tilth.ports.tracker import Rule

#: Of JSON; a tracker's own clients send at most 1 MB at a time.
MOST_JSON_BYTES = 4 << 20
_MOST_QUERY = 16 << 10
_MOST_DECODED = 4
_BAD = re.compile(r"[\x00-\x1f\x7f\\]")
_SAFE = "/:@!$&'()*+,;=~"


class Rules:
    """Every request that may be passed on, and what it needs."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._exact: dict[tuple[str, str], Rule] = {}
        self._held: list[tuple[Rule, tuple[str, ...]]] = []
        for rule in rules:
            if "*" in rule.path or rule.method == "*":
                self._held.append((rule, tuple(rule.path.split("/"))))
            else:
                self._exact.setdefault((rule.method, rule.path), rule)

    def find(self, method: str, path: str) -> Rule:
        """Return the rule of a request that may be passed on to some.

        Raises:
            MissingError: it falls under none.
            ForbiddenError: it is closed to everybody.
        """
        found = self._exact.get((method, path)) or self._wild(method, tuple(path.split("/")))
        if found is None:
            raise MissingError(
                f"tracking takes no {shown(method)} at `{shown(path)}`",
                why="only what is known of its API is passed on",
                hint="docs/guides/tracking.md says what that is",
            )
        if found.right == "closed":
            raise ForbiddenError(f"`{shown(path)}` is closed", why=found.why, hint="nobody may do this here")
        return found

    def _wild(self, method: str, parts: tuple[str, ...]) -> Rule | None:
        for rule, pattern in self._held:
            if rule.method in (method, "*") and _fits(pattern, parts):
                return rule
        return None


def _fits(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if pattern[-1] == "**":
        pattern, rest = pattern[:-1], parts[len(pattern) - 1 :]
        if not rest:
            return False
        parts = parts[: len(pattern)]
    return len(pattern) == len(parts) and all(
        wanted == part or (wanted == "*" and part != "") for wanted, part in zip(pattern, parts, strict=True)
    )


def path_of(raw: bytes, prefix: str) -> str:
    """Return what a request's path names below `prefix`, decoded once.

    Raises:
        InvalidError: it holds `..` or an empty segment, plain or encoded however often, or what is no text.
    """
    try:
        text = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        raise _invalid("path", "it is not UTF-8") from None
    path = text.removeprefix(prefix)
    check_name(path, "path")
    return path


def target_of(path: str, query: bytes) -> bytes:
    """Return path and query as they are passed on."""
    return b"/" + quote(path, safe=_SAFE).encode() + (b"?" + query if query else b"")


def query_of(raw: bytes) -> dict[str, str]:
    """Return a query's values, of those that are there twice the first.

    Raises:
        InvalidError: one that names a path leaves its folder, or it is no query.
    """
    if len(raw) > _MOST_QUERY:
        raise _invalid("query", f"at most {_MOST_QUERY} bytes are taken")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=512)
    except ValueError:
        raise _invalid("query", "it is not understood") from None
    made: dict[str, str] = {}
    for name, value in pairs:
        if "path" in name.lower() or "uri" in name.lower():
            check_name(value.rstrip("/"), name)
        made.setdefault(name, value)
    return made


def check_name(path: str, what: str) -> None:
    """Return when a path is relative, and stays below where it begins, however often it is decoded.

    Raises:
        InvalidError: it does not.
    """
    for _ in range(_MOST_DECODED):
        parts = path.split("/")
        if _BAD.search(path) or {".", ".."} & {part.partition(";")[0].strip() for part in parts}:
            raise _invalid(what, "it holds `..`, `.`, a backslash or a control character")
        if len(parts) > 1 and "" in parts[:-1]:
            raise _invalid(what, "a part of it is empty, or it is absolute")
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded
    raise _invalid(what, "it is encoded too often")


def json_of(kind: str, encoding: str, data: bytes) -> Any:
    """Return what a JSON body says, None for an empty one.

    Raises:
        UnsupportedError: it is not said to be JSON, or is packed.
        TooLargeError: it has more than 4 MiB.
        InvalidError: it is not JSON.
    """
    if not data:
        return None
    if kind.partition(";")[0].strip().lower() != "application/json" or encoding:
        raise UnsupportedError(
            "the body is not plain JSON",
            why=f"its type is `{shown(kind)}`" + (f", packed as `{shown(encoding)}`" if encoding else ""),
            hint="send `Content-Type: application/json`",
        )
    if len(data) > MOST_JSON_BYTES:
        raise TooLargeError("the body is too large", why=f"at most {MOST_JSON_BYTES} bytes of JSON are taken here")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _invalid("body", "it is not JSON in UTF-8") from None


def written(value: Any) -> bytes:
    """Return a JSON body as it is passed on."""
    return b"" if value is None else json.dumps(value, separators=(",", ":")).encode()


def _invalid(what: str, why: str) -> InvalidError:
    return InvalidError(f"the `{shown(what)}` of the request is not taken", why=why)
