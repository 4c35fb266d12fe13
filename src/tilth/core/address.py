"""Where a server listens, and what it needs before other machines may reach it."""

import ipaddress
import os
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tilth.core.blob import open_regular
from tilth.core.errors import InvalidError, RefusedError

_MAX_PORT = 65535
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
#: `getaddrinfo` reads `127.1`, `0x7f.1` and `2130706433` as IPv4 addresses, so a name may not end like one.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class Address:
    """A host to listen on, lower case and without brackets, and a port; port 0 is any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it: 127.0.0.0/8, `::1` and `localhost`, and nothing else.

        What `localhost` stands for is for the system to say; it is not looked up here.
        """
        if self.host in ("localhost", "::1"):
            return True
        try:
            return ipaddress.IPv4Address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """Return the address that `HOST:PORT` names; an IPv6 address stands in brackets.

    Raises:
        InvalidError: it is anything else.
    """
    host, colon, port = text[:512].rpartition(":")
    if len(text) > 300 or not colon or not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
        raise _invalid(text, _why(text, host if colon else text, port if colon else ""))
    return Address(parse_host(host), int(port))


def parse_host(text: str) -> str:
    """Return a host in its one form: lower case, an IPv6 address shortened and without its brackets.

    Raises:
        InvalidError: it is not an IPv4 address, an IPv6 address in brackets, or a name.
    """
    name, brackets = text[:512].lower(), _IPV6.fullmatch(text[:512])
    try:
        if brackets:
            return str(ipaddress.IPv6Address(brackets[1]))
        if _NUMBER.fullmatch(name.rpartition(".")[2]):
            return str(ipaddress.IPv4Address(name))
    except ValueError:
        raise _invalid(text, "the host looks like an IP address and is not one") from None
    if not _NAME.fullmatch(name):
        raise _invalid(text, _why(text, name, "0"))
    return name


def check_exposure(addresses: Iterable[Address], *, tls: bool, tokens: bool, insecure: bool) -> None:
    """Do nothing when every address is loopback, or TLS and tokens are both there, or `insecure` was asked for.

    `tokens` is true for a token file and for a JWT key.

    Raises:
        RefusedError: other machines could read or send what they should not.
    """
    exposed = [str(address) for address in addresses if not address.loopback]
    if not exposed or insecure or (tls and tokens):
        return
    missing, add = [], []
    if not tls:
        missing.append("without TLS, whoever is on the way reads and changes requests, answers and tokens")
        add.append("--tls-cert CERT.pem --tls-key KEY.pem")
    if not tokens:
        missing.append("without tokens, whoever reaches it can run and change models")
        add.append("--tokens FILE (or --jwt-key PUBLIC.pem)")
    raise RefusedError(
        f"other machines can reach {', '.join(f'`{one}`' for one in exposed)}",
        why="; ".join(missing),
        hint=f"add {' and '.join(add)}; or listen on 127.0.0.1; or, where nobody else can reach it, add --insecure",
    )


def check_key_files(cert: str | Path, key: str | Path) -> None:
    """Do nothing when `cert` and `key` are PEM files that belong together and the key is its owner's alone.

    Whether the certificate is in date, and whom it names, is not checked.

    Raises:
        MissingError: one of them is not there.
        UnavailableError: one of them cannot be read.
        UntrustedError: one of them is a folder, a pipe or a device.
        RefusedError: group or others may read or write the key.
        InvalidError: they do not load: not PEM, not a pair, or the key has a pass phrase.
    """
    os.close(open_regular(cert, follow=True))
    handle = open_regular(key, follow=True)
    try:
        mode = os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
    if mode & 0o077:
        raise RefusedError(
            f"the key `{key}` is open to other users",
            why=f"its mode is {mode:04o}; whoever reads it can pose as this server",
            hint=f"chmod 600 {key}",
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_pass_phrase)
    except (ssl.SSLError, OSError) as error:
        mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        raise InvalidError(
            f"`{cert}` and `{key}` cannot be used for TLS",
            why="the key is not the one of the certificate" if mismatch else f"they do not load: {error}",
            hint=f"openssl x509 -in {cert} -noout -subject; openssl pkey -in {key} -noout",
        ) from None


def _no_pass_phrase() -> str:
    # Without this, OpenSSL would ask at the terminal and a server that has none would wait for ever.
    raise InvalidError(
        "the TLS key has a pass phrase",
        why="a server that restarts by itself has nobody to ask for it",
        hint="openssl pkey -in KEY.pem -out PLAIN.pem; chmod 600 PLAIN.pem",
    )


def _why(text: str, host: str, port: str) -> str:
    """Return the likeliest reason why `text` is not `HOST:PORT`."""
    reasons = (
        (len(text) > 300, f"it has {len(text)} characters"),
        (not text.isascii() or not text.isprintable() or " " in text, "it holds a character that no host has"),
        ("/" in text, "it holds a `/`; it is an address, not a URL or a path"),
        (":" in host and not host.startswith("["), "an IPv6 address stands in brackets"),
        (not port.isdigit(), "there is no port at its end"),
        (not _PORT.fullmatch(port) or int(port) > _MAX_PORT, f"the port is not 0 to {_MAX_PORT}"),
        (not host, "there is no host before the port"),
    )
    return next((reason for found, reason in reasons if found), "the host is neither an IP address nor a name")


def _invalid(text: str, why: str) -> InvalidError:
    return InvalidError(
        f"`{ascii(text[:80])[1:-1]}` is not an address",
        why=why,
        hint="write HOST:PORT, for example 127.0.0.1:8751, [::1]:8751 or localhost:8751",
    )
