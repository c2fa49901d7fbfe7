"""Where a webhook may be sent: a URL, taken apart strictly, so that nobody reads it in two ways."""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from app.domain.address import Address, is_public
from app.domain.errors import InvalidWebhookUrlError

MAX_URL_LENGTH: Final = 2048
_PORTS: Final = {"https": 443, "http": 80}
_MAX_PORT: Final = 65535
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[/?][!$-;=?-\[\]_a-z~]*)?"
)
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>(?=.{1,253}\Z|.{1,253}:)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*)\.?)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """A URL that was taken apart."""

    scheme: str
    host: str
    """In lower case: a name without its last dot, or an address without brackets."""
    port: int
    target: str
    """Path and query, as they go into the request line."""

    @property
    def receiver(self) -> str:
        """Who is behind it, `host:port`."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """What goes into the Host field: the port only where it is not the scheme's own."""
        return self.receiver.removesuffix(f":{_PORTS[self.scheme]}")

    @property
    def address(self) -> Address | None:
        """The address that it names, in whatever way of writing; None for a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            pass
        try:
            return IPv4Address(socket.inet_aton(self.host))  # no I/O; `127.1` and `0x7f000001` are addresses, too
        except OSError:
            return None


def parse_webhook_url(text: str, *, allow_private: bool) -> WebhookUrl:
    """Take a URL apart.

    Raises InvalidWebhookUrlError: not https, credentials, a fragment, characters that a URL has not, and an address, or
    a name of this machine, that is not public. `allow_private` lets http and every address pass. The error never quotes
    the URL, which may hold a secret of the receiver's.
    """
    match = _URL.fullmatch(text)
    if len(text) > MAX_URL_LENGTH or not match:
        raise InvalidWebhookUrlError(
            f"The webhook URL is not an absolute URL of at most {MAX_URL_LENGTH} ASCII characters without a fragment."
        )
    scheme = match["scheme"].lower()
    if scheme != "https" and not (allow_private and scheme == "http"):
        raise InvalidWebhookUrlError("The webhook URL must be https.")
    if "@" in match["authority"]:
        raise InvalidWebhookUrlError("The webhook URL must not hold credentials. Messages are signed instead.")
    authority = _AUTHORITY.fullmatch(match["authority"])
    port = int(authority["port"] or _PORTS[scheme]) if authority else 0
    if not authority or not 0 < port <= _MAX_PORT or (authority["six"] and not _is_six(authority["six"])):
        raise InvalidWebhookUrlError("The webhook URL has no valid host, or no valid port.")
    host = (authority["six"] or authority["name"]).lower()
    target = match["target"] or "/"
    url = WebhookUrl(scheme, host, port, target if target.startswith("/") else f"/{target}")
    if not allow_private and _is_private(url):
        raise InvalidWebhookUrlError("The webhook URL names an address that is not public.")
    return url


def receiver_of(url: str) -> str:
    """Return who is behind a URL that was taken once; for one that would not be taken today, the URL itself.

    Never raises: no batch fails to end because of who is to be told.
    """
    try:
        return parse_webhook_url(url, allow_private=True).receiver
    except InvalidWebhookUrlError:
        return url


def _is_private(url: WebhookUrl) -> bool:
    address = url.address
    if address is None:
        return url.host == "localhost" or url.host.endswith(".localhost")  # RFC 6761 §6.3
    return not is_public(address)


def _is_six(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
