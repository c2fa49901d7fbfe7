"""Where clients see the service, as a trusted proxy says it (RFC 7239, and the X-Forwarded- fields before it)."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from starlette.datastructures import Headers

_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_SCHEMES: Final = frozenset({"http", "https"})
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_PAIR: Final = re.compile(r'\s*([A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*(?:;|$)')


def public_base(headers: Headers, *, trust_proxy: bool) -> str:
    """Return what comes before the path in a URL of ours, as `https://files.example.org/prefix`.

    Empty, so that a URL is relative, unless proxies are trusted and one says both scheme and host: a relative URL is
    right whatever the host is called, and nothing that any client may send is ever sent back in a URL. Where a request
    came through several proxies the first one's word counts, which is the one that the client spoke to.
    """
    if not trust_proxy:
        return ""
    said = _forwarded(headers.get("forwarded", ""))
    scheme = (said.get("proto") or _first(headers, "x-forwarded-proto")).lower()
    host = said.get("host") or _first(headers, "x-forwarded-host") or headers.get("host", "")
    prefix = _first(headers, "x-forwarded-prefix").rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        prefix = ""
    if scheme not in _SCHEMES or not _HOST.fullmatch(host):
        return prefix
    return f"{scheme}://{host}{prefix}"


def client_address(headers: Headers, peer: str, *, trust_proxy: bool) -> IPv4Address | IPv6Address | None:
    """Return where a request came from: `peer`, or what a trusted proxy says; None where that is no IP address.

    As for `public_base`, the first proxy's word counts. What it hides (`unknown`, `_name`) is the proxy itself.
    """
    said = ""
    if trust_proxy:
        said = _forwarded(headers.get("forwarded", "")).get("for") or _first(headers, "x-forwarded-for")
    return _address(said) or _address(peer)


def _address(node: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a node (RFC 7239 §6), which may have a port."""
    if node.startswith("["):
        node = node[1:].partition("]")[0]
    elif node.count(":") == 1:
        node = node.partition(":")[0]
    try:
        return ip_address(node.partition("%")[0])
    except ValueError:
        return None


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").split(",")[0].strip()


def _forwarded(value: str) -> dict[str, str]:
    """Return the parameters of the first element; what follows a fault in it is not read."""
    found: dict[str, str] = {}
    first = re.match(r'(?:"(?:[^"\\]|\\.)*"|[^,"])*', value)
    element, position = first[0] if first else "", 0
    while match := _PAIR.match(element, position):
        text = match[2]
        found.setdefault(match[1].lower(), re.sub(r"\\(.)", r"\1", text[1:-1]) if text[:1] == '"' else text)
        position = match.end()
        if position >= len(element):
            break
    return found
