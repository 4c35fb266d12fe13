"""Who a credential belongs to: a file of hashed tokens."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tilth.core.blob import open_regular, read_all
from tilth.core.digest import digest
from tilth.core.errors import InvalidError, RefusedError

SCOPES = frozenset({"infer", "manage", "metrics"})
MAX_TOKEN_BYTES = 8 << 10

MAX_FILE_BYTES = 1 << 20

_MAX_LINES = 10_000
_HASHED = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
#: A scope for everything, or `infer@` with the name of a model as it is served, or the beginning of one and a `*`.
_SCOPE = re.compile(rf"({'|'.join(sorted(SCOPES))})|infer@((?=.)(?:[A-Za-z0-9][A-Za-z0-9._-]{{0,127}})?\*?)")
#: The whole file when nobody is let in: on purpose, and not because what wrote it stopped halfway.
_NOBODY = ["# tilth: no tokens"]
_EMPTY = hashlib.sha256().digest()
_HOW_TO_HASH = "write `sha256:` and what this prints: printf %s \"$SECRET\" | sha256sum | cut -d' ' -f1"


@dataclass(frozen=True)
class Principal:
    """Who presents a credential, as logs name it, and what it may do.

    `models` are names, or beginnings of names with a `*`, that its scope `infer` is for; none for all models.
    """

    name: str
    scopes: frozenset[str]
    models: tuple[str, ...] = ()

    def may_use(self, model: str) -> bool:
        """Return whether its scope `infer` is for a model of this name; no name is none of its models."""
        return not self.models or (model != "" and (model in self.models or model.startswith(self._beginnings)))

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        return tuple(one[:-1] for one in self.models if one.endswith("*"))


class TokenFile:
    """Static tokens by their SHA-256; the secrets themselves are nowhere.

    A presented secret is hashed, and looked up under a keyed hash of that, with a key that this process made up. So
    neither the place it falls in the table nor the bytes that the table compares can be steered by who presents it.
    What is found, or a digest of nothing when nothing is, is then compared once in constant time. Comparing with the
    whole list would say no less, and cost a request up to 10,000 comparisons.
    """

    def __init__(self, principals: Mapping[bytes, Principal]) -> None:
        self._key = secrets.token_bytes(32)
        self._nobody: tuple[bytes, Principal | None] = (secrets.token_bytes(32), None)
        self._found: dict[bytes, tuple[bytes, Principal | None]] = {
            self._place(hashed): (hashed, principal) for hashed, principal in principals.items()
        }

    def __len__(self) -> int:
        return len(self._found)

    def find(self, secret: str) -> Principal | None:
        """Return whose token `secret` is, or None."""
        presented = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        wanted, principal = self._found.get(self._place(presented), self._nobody)
        return principal if hmac.compare_digest(presented, wanted) else None

    def _place(self, hashed: bytes) -> bytes:
        return hmac.digest(self._key, hashed, "sha256")


def load_tokens(path: str | Path) -> TokenFile:
    """Return the tokens of a file; see `parse_tokens` for its form.

    Raises:
        MissingError: there is no such file.
        UnavailableError: it cannot be read.
        UntrustedError: it is a folder, a pipe or a device.
        RefusedError: group or others may write it, or it holds a secret in plain text.
        InvalidError: it is beyond 1 MiB or has another form.
    """
    return parse_tokens(read_guarded(path, MAX_FILE_BYTES), str(path))


def parse_tokens(data: bytes, name: str) -> TokenFile:
    """Return the tokens of `sha256:<64 hex> scope[,scope] [name]` lines; `#` begins a comment. `name` is for errors.

    A file that is the line `# tilth: no tokens` and nothing else has none. Errors give the number of a line and
    nothing of what it holds.

    Raises:
        RefusedError: a line holds something that is not hashed.
        InvalidError: it is not UTF-8, has over 10,000 lines, no token, a token twice, or a line of another form.
    """
    try:
        lines = data.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise _bad_file(name, "it is not UTF-8") from None
    if len(lines) > _MAX_LINES:
        raise _bad_file(name, f"it has {len(lines)} lines and may have {_MAX_LINES}")
    found: dict[bytes, Principal] = {}
    for number, line in enumerate(lines, start=1):
        if fields := line.partition("#")[0].split():
            hashed, principal = _entry(fields, f"{name}:{number}", number)
            if hashed in found:
                raise _bad_file(f"{name}:{number}", "the same token stands on an earlier line")
            found[hashed] = principal
    if not found and [line.strip() for line in lines if line.strip()] != _NOBODY:
        raise _bad_file(name, "it holds no token, so nobody could use the server")
    return TokenFile(found)


def new_token(scopes: Iterable[str] = ("infer",), name: str = "") -> tuple[str, str]:
    """Return a new secret of 256 random bits, to be shown once, and its line for the token file.

    Raises:
        InvalidError: a scope is not known, there is none, or the name has other characters than `A-Za-z0-9._@-`.
    """
    secret = f"tilth_{secrets.token_urlsafe(32)}"
    fields = [f"sha256:{digest(secret.encode())}", ",".join(sorted(set(scopes))), *([name] if name else [])]
    _entry(fields, "the new token", 1)
    return secret, " ".join(fields)


def granted(listed: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the scopes of a list, and the models that `infer@MODEL` limits `infer` to; see `Principal`.

    What is not known counts for nothing.

    Raises:
        ValueError: `infer` stands there both for all models and for some.
    """
    known = [found for one in listed if (found := _SCOPE.fullmatch(one))]
    scopes = frozenset(found[1] for found in known if found[1])
    models = tuple(sorted({found[2] for found in known if found[2]}))
    if models and "infer" in scopes:
        raise ValueError("`infer` is for all models, and `infer@...` beside it for some")
    return scopes | {"infer"} if models else scopes, models


def _entry(fields: list[str], where: str, number: int) -> tuple[bytes, Principal]:
    hashed = _HASHED.fullmatch(fields[0])
    if hashed is None:
        if fields[0].lower().startswith("sha256:"):
            raise _bad_file(where, "`sha256:` is not followed by 64 hex digits")
        raise RefusedError(
            f"`{where}` holds a token that is not hashed",
            why="whoever reads the file, or a copy of it, could use it",
            hint=f"{_HOW_TO_HASH}; if anyone may have read it, make a new one",
        )
    scopes, models = _granted(fields[1].split(",") if len(fields) > 1 else [], where)
    if len(fields) > 3 or not all(_NAME.fullmatch(name) for name in fields[2:]):
        raise _bad_file(where, "after the scopes comes at most one name of up to 64 characters `A-Za-z0-9._@-`")
    found = bytes.fromhex(hashed[1])
    if found == _EMPTY:
        raise _bad_file(where, "it is the hash of nothing; the variable was empty")
    return found, Principal(fields[2] if len(fields) > 2 else f"line-{number}", scopes, models)


def _granted(listed: list[str], where: str) -> tuple[frozenset[str], tuple[str, ...]]:
    if not listed or not all(_SCOPE.fullmatch(one) for one in listed):
        some = "infer, infer@MODEL, manage, metrics with commas and no spaces"
        raise _bad_file(where, f"the scopes are not some of {some}; MODEL is a name, or the beginning of one and a `*`")
    try:
        return granted(listed)
    except ValueError as error:
        raise _bad_file(where, str(error)) from None


def _bad_file(where: str, why: str) -> InvalidError:
    return InvalidError(
        f"`{where}` does not have the form of a token file",
        why=why,
        hint="each line is `sha256:<64 hex> scope[,scope] [name]`",
    )


def read_guarded(path: str | Path, most_bytes: int) -> bytes:
    """Return the bytes of a file that only its owner may write; links are followed, as secrets are often mounted so.

    Raises:
        MissingError: there is no such file.
        UnavailableError: it cannot be read.
        UntrustedError: it is a folder, a pipe or a device.
        RefusedError: group or others may write it.
        InvalidError: it has more than `most_bytes`.
    """
    handle = open_regular(path, follow=True)
    try:
        found = os.fstat(handle)
        if found.st_mode & 0o022:
            raise RefusedError(
                f"other users may write `{path}`",
                why=f"its mode is {found.st_mode & 0o777:04o}; whoever writes it decides who is let in",
                hint=f"chmod go-w {path}",
            )
        if found.st_size > most_bytes:
            raise InvalidError(
                f"`{path}` has {found.st_size} bytes", why=f"it may have {most_bytes}", hint="check the path"
            )
        return read_all(handle, 0, found.st_size, str(path))
    finally:
        os.close(handle)
