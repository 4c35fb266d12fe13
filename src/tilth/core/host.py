"""Which Host and Origin a request may carry: against DNS rebinding, and pages of other sites."""

import re
from collections.abc import Iterable

from tilth.core.address import Address, parse_host
from tilth.core.errors import InvalidError

_LOCAL = ("localhost", "127.0.0.1", "::1")
_MAX_SEEN = 1024
_MAX_HOST = 300
_WITH_PORT = re.compile(r"(.+?)(?::[0-9]{1,5})?", re.DOTALL)
_ORIGIN = re.compile(r"(https?)://(\[[^\]]*\]|[^:/\[\]]*)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class HostRule:
    """The hosts and origins that are let in.

    A page whose name is re-bound to 127.0.0.1 still sends its own name as Host, so a server that only this machine
    reaches takes only its own names: `localhost`, `127.0.0.1`, `[::1]`, what it listens on, and `extra_hosts`, which
    have no port. Where one address can be reached from elsewhere, every Host is taken. An Origin is sent by browsers
    alone, and taken only when it is one of `origins`, such as `https://console.example:8443`.

    Raises:
        InvalidError: an extra host is not a host, or an origin not one that a browser sends.
    """

    def __init__(
        self, addresses: Iterable[Address], extra_hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> None:
        addresses = list(addresses)
        self._any_host = not all(address.loopback for address in addresses)
        extra = [_extra(text) for text in extra_hosts]
        self._hosts = frozenset((*_LOCAL, *(address.host for address in addresses), *extra))
        self._origins = frozenset(_origin(text) for text in origins)
        self._seen: set[str] = set()

    def refusal(self, host: str | None, origin: str | None) -> str:
        """Return why a request with these headers is refused, or an empty string.

        `host` is the Host header, or `:authority` in HTTP/2; None when there is none. A request with more than one
        Host or Origin is for the caller to refuse.
        """
        if origin is not None and origin not in self._origins:
            return f"the page at origin `{_shown(origin)}` may not call this server"
        if self._any_host or host in self._seen:
            return ""
        return self._judge(host)

    def _judge(self, host: str | None) -> str:
        if host is None:
            return "the request has no Host header"
        if not self._is_ours(host):
            return f"host `{_shown(host)}` is not a name of this server"
        # Any port is taken, so a client could name 65,536 hosts; forgetting all costs one parse for each.
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add(host)
        return ""

    def _is_ours(self, host: str) -> bool:
        found = _WITH_PORT.fullmatch(host) if len(host) <= _MAX_HOST else None
        try:
            return found is not None and parse_host(found[1]) in self._hosts
        except InvalidError:
            return False


def _extra(text: str) -> str:
    try:
        return parse_host(text)
    except InvalidError:
        raise InvalidError(
            f"`{_shown(text)}` is not a host",
            why="it is a name, an IPv4 address or an IPv6 address in brackets, with no port, no path and no `*`",
            hint="write it without a port, for example gpu1.example; every port is taken",
        ) from None


def _origin(text: str) -> str:
    """Return an origin as browsers write it: lower case, the default port left out."""
    found = _ORIGIN.fullmatch(text[:_MAX_HOST].lower())
    if found is None:
        raise InvalidError(
            f"`{_shown(text)}` is not an origin",
            why="it is a scheme, a host and at most a port, with nothing behind and no `*`",
            hint="write it as browsers send it, for example https://console.example:8443",
        )
    scheme, host, port = found[1], parse_host(found[2]), found[3]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" + (f":{int(port)}" if port and int(port) != _DEFAULT_PORTS[scheme] else "")


def _shown(text: str) -> str:
    return ascii(text[:80])[1:-1]
