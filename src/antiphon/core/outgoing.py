"""URLs that this platform calls: an engine, an issuer's keys, a key service.

Invariant: a request leaves only for an address that was checked after its name was resolved, and it goes to that very
address. So neither another spelling of an address, nor a redirect (none is followed), nor a name that resolves
differently the second time leads to a machine's metadata service. Loopback and private networks are permitted: that
is where engines run; link-local, multicast, reserved and unspecified addresses are not.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    import ssl

    import aiohttp

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

KEPT_SECONDS = 4.0
"""Time for which an idle connection is kept: shorter than servers keep theirs (uvicorn: 5 s), so that none is used that
the other side is closing just then."""

_SECRETS = frozenset(
    ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key", "token")
)
"""Parameters of a URL's query that are secrets to PostgreSQL, Redis or NATS. ``passfile`` and ``sslkey`` are none: they
are paths of files, which are guarded as files are."""

_METADATA = frozenset(ipaddress.ip_address(address) for address in ("100.100.100.200", "fd00:ec2::254"))
"""Metadata services outside the link-local range."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z", re.IGNORECASE)


def check_url(url: str, *, where: str, secret: bool = False) -> str:
    """The URL itself when it may be called.

    Args:
        where: the setting it stands in, for the error.
        secret: whether a key is sent along; then it must be https, or lead to this machine.

    Raises:
        InvalidInputError: it is no http(s) URL, carries a user or a fragment, or names an address that is not called.
    """
    parsed = _parsed(url, where)
    host = str(parsed.hostname)
    literal = literal_address(host)
    if literal is not None:
        require_callable((literal,), where)
    local = host == "localhost" or (literal is not None and literal.is_loopback)
    if secret and parsed.scheme != "https" and not local:
        raise InvalidInputError(
            "A key would be sent in clear text.", where=where, next_step="Use an https URL, or one of this machine."
        )
    return url


def holds_secret(url: str) -> bool:
    """Tells whether a server's URL has a password before ``@``, or a secret among the parameters after ``?``.

    It is read as leniently as any driver reads it: a password may hold ``/``, ``?`` and ``#``, and a parameter's name
    may be escaped.
    """
    rest = url.partition("://")[2] or url
    user, at, _ = rest.partition("@")
    return (bool(at) and ":" in user) or any(
        name.strip().casefold() in _SECRETS for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)
    )


def require_no_secret(url: str, *, where: str, variable: str) -> None:
    """Refuse a server's URL that holds a password or another secret (``InvalidInputError``, which repeats nothing of
    it).

    Args:
        where: the setting it stands in; ``variable``: the one that names an environment variable instead.
    """
    if holds_secret(url):
        raise InvalidInputError(
            "The URL holds a password.",
            where=where,
            next_step=f"Put it into an environment variable and name that in {variable}.",
        )


def literal_address(host: str) -> Address | None:
    """The address that a host is, however it is spelled (``2852039166``, ``0xa9.254.169.254``); else ``None``."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    parts = bare.rstrip(".").split(".")
    if len(parts) > 4 or not all(_NUMBER.match(part) for part in parts):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare.rstrip(".")))
    except OSError:
        return None


def require_callable(addresses: Iterable[Address], where: str) -> None:
    """Refuse when any of these addresses is not to be called.

    Raises:
        InvalidInputError: says so without naming what the address answered.
    """
    for address in addresses:
        real = _embedded(address)
        if (
            real.is_link_local
            or real.is_multicast
            or real.is_unspecified
            or real in _METADATA
            or (real.is_reserved and not real.is_loopback)
        ):
            raise InvalidInputError(
                f"{address} is an address that is not called.",
                where=where,
                next_step="Name a server on this machine, on a private network or on the internet.",
            )


def resolve(host: str, port: int, where: str) -> Sequence[str]:
    """Addresses of a host, all of them checked; to be connected to as they are.

    Raises:
        InvalidInputError: one of them is not to be called. OSError: the name does not resolve.
    """
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    require_callable((ipaddress.ip_address(address.partition("%")[0]) for address in found), where)
    return found


def connector(where: str, verify: ssl.SSLContext | bool = True) -> aiohttp.TCPConnector:
    """A connector of aiohttp that checks the addresses of every name it resolves, without a bound on connections.

    It is made inside the event loop. An address in a URL is not resolved: :func:`check_url` has looked at it. Redirects
    are the caller's: leave them off.
    """
    import asyncio

    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

    class CheckedResolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
                for address in await asyncio.to_thread(resolve, host, port, where)
            ]

        async def close(self) -> None:
            pass

    # Addresses are kept by no cache: who takes a server away from a name is heeded with the next connection.
    return aiohttp.TCPConnector(
        resolver=CheckedResolver(), use_dns_cache=False, limit=0, keepalive_timeout=KEPT_SECONDS, ssl=verify
    )


def _parsed(url: str, where: str) -> SplitResult:
    wrong = "The URL is not one of http or https."
    if any(ord(letter) <= 0x20 or letter in "\\\x7f" for letter in url):
        wrong = "The URL holds white space, a control character or a backslash."
    else:
        try:
            parsed = urlsplit(url)
            _ = parsed.port
        except ValueError:
            parsed = None
        if parsed is not None and parsed.scheme in ("http", "https") and parsed.hostname:
            if parsed.username is None and parsed.password is None and not parsed.fragment and "@" not in parsed.netloc:
                return parsed
            wrong = "The URL carries a user name or a fragment."
    raise InvalidInputError(wrong, where=where, next_step="Write http://HOST:PORT/PATH or https://HOST/PATH.")


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, compatible, NAT64, 6to4), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    low = int(address) & 0xFFFFFFFF
    if address in _NAT64 or (int(address) >> 32 == 0 and low > 1):
        return ipaddress.IPv4Address(low)
    return address


def is_loopback(host: str) -> bool:
    """Tells whether every address of this name is of this machine alone; a name that has none is not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(entry[4][0]).split("%")[0]).is_loopback for entry in found)
