"""Addresses that requests come from."""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that is written in `text`, None if it is none; IPv4 in IPv6's dress is IPv4."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def origin_of(forwarded_for: str, trusted: Collection[IPv4Address | IPv6Address]) -> str | None:
    """Return where a request comes from by its X-Forwarded-For, None if that says nothing.

    Each proxy has added its peer's address, our own the last one: the last that is neither of this machine nor among `trusted` was there.
    """
    origin = None
    for text in reversed(forwarded_for.split(",")):
        if not (address := address_of(text)):
            break
        origin = str(address)
        if not address.is_loopback and address not in trusted:
            break
    return origin


def host_of(address: str) -> str:
    """Return an address as it is counted: an IPv6 host can take any of its /64 each time."""
    found = address_of(address)
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else str(found or address)


def is_local(address: str) -> bool:
    """Return whether an address is one of this machine, or that of a unix socket's peer."""
    found = address_of(address)
    return not found or found.is_loopback or found.is_unspecified
