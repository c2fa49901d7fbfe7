"""Which addresses are public: those that a message to an outsider may go to."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""An IPv4 address in IPv6 (RFC 6052); as public as that one."""
_UNICAST: Final = IPv6Network("2000::/3")
"""All that IANA gives out of IPv6. Outside of it lie loopback, private, link-local, site-local, mapped, multicast."""
# `is_global` is true for all of these.
_SPECIAL_4: Final = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; metadata in one cloud
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # the host of a machine in Azure
)
_SPECIAL_6: Final = (
    IPv6Network("2002::/16"),  # 6to4: any IPv4 address, private ones too
    IPv6Network("3fff::/20"),  # documentation
)


def is_public(address: Address) -> bool:
    """Say whether an address is one host on the Internet, by everything that IANA, and the clouds, say of it."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _SPECIAL_4)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address in _UNICAST and address.is_global and not any(address in net for net in _SPECIAL_6)
