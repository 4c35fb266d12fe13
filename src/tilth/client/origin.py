"""Where a control plane is, and whether a token may be sent there; pure."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from tilth.core.address import Address, parse_host
from tilth.core.errors import InvalidError, RefusedError

_PORTS = {"http": 80, "https": 443}
#: Where a server listens on every address of its machine; nobody can be asked there.
_EVERY = ("0.0.0.0", "::")  # noqa: S104 - compared with
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port; two texts that mean the same place give the same origin."""

    scheme: str
    address: Address

    @property
    def loopback(self) -> bool:
        """Whether only this machine can be there."""
        return self.address.loopback

    def __str__(self) -> str:
        port = self.address.port
        whole = str(self.address)
        return f"{self.scheme}://{whole.removesuffix(f':{port}') if port == _PORTS[self.scheme] else whole}"


def parse_origin(url: str) -> Origin:
    """Return the origin that `http(s)://HOST[:PORT]` names.

    Raises:
        InvalidError: it is anything else: a path, a query or a user name stands in it, too.
    """
    try:
        found = urlsplit(url[:512])
        port = found.port
    except ValueError:
        raise _invalid(url, "it cannot be taken apart") from None
    why = _objection(url, found)
    if why:
        raise _invalid(url, why)
    host = f"[{found.hostname}]" if ":" in (found.hostname or "") else str(found.hostname)
    return Origin(found.scheme, Address(parse_host(host), _PORTS[found.scheme] if port is None else port))


def seen_from(url: str, base: str) -> str:
    """Return an address as whoever reached its control plane at `base` can use it.

    One that stands for every address of a machine gets the host of `base`; where that is no origin, it stays.
    """
    try:
        found, reached = parse_origin(url), parse_origin(base)
    except InvalidError:
        return url
    if found.address.host not in _EVERY:
        return url
    return str(Origin(found.scheme, Address(reached.address.host, found.address.port)))


def check_token(token: str) -> str:
    """Return a token that can be sent in a header.

    Raises:
        InvalidError: it holds other characters than a token has. It is not shown: it may be a secret in a wrong place.
    """
    if _TOKEN.fullmatch(token):
        return token
    raise InvalidError(
        "the token is not understood",
        why="it is empty, too long, or holds a character that no token has",
        hint="copy it as `tilth up` or `tilth tokens add` printed it",
    )


def check_private(origin: Origin, insecure: bool) -> None:
    """Return when what is sent to `origin` can be read there alone: TLS, or this machine, or nobody minds.

    Raises:
        RefusedError: whoever is on the way could read the token.
    """
    if origin.scheme == "https" or origin.loopback or insecure:
        return
    raise RefusedError(
        f"no token is sent to `{origin}`",
        why="it is another machine, and without TLS whoever is on the way reads the token",
        hint="use https://, or a tunnel (`ssh -L`); where nobody else can listen, allow it with --insecure",
    )


def _objection(url: str, found: SplitResult) -> str:
    reasons = (
        (len(url) > 512 or not url.isascii() or not url.isprintable(), "it is too long, or holds letters no URL has"),
        (found.scheme not in _PORTS, "it does not begin with http:// or https://"),
        (found.username is not None or found.password is not None, "a user name or password stands in it"),
        (not found.hostname, "it has no host"),
        (found.path not in ("", "/") or bool(found.query) or bool(found.fragment), "something follows the host"),
    )
    return next((why for wrong, why in reasons if wrong), "")


def _invalid(url: str, why: str) -> InvalidError:
    # What stands before an `@` may be a password.
    shown = ascii(re.sub(r"//[^/]*@", "//...@", url[:120]))[1:-1]
    return InvalidError(f"`{shown}` is not the address of a control plane", why=why, hint="write https://HOST:PORT")
