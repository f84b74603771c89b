"""Which hosts on the network are public: where strangers may send us, and where they may not."""

from __future__ import annotations

import ipaddress
import socket

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        # This machine, private networks, links, carriers' networks, protocol assignments, documentation, multicast, reserved.
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        # Not 198.18.0.0/15 and fc00::/8: some proxies give all public hosts addresses of these ranges.
        *("::/127", "100::/64", "2001:db8::/32", "fd00::/8", "fe80::/9", "ff00::/8"),
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def leads_inside(host: str) -> bool:
    """Whether a host has an address that is not public. One that this machine does not know has none; a proxy may know it."""
    return any(map(_is_inside, _addresses_of(host)))


def is_loopback(host: str) -> bool:
    """Whether a host's name says that it is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _addresses_of(host: str) -> list[str]:
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def _is_inside(address: str) -> bool:
    ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _embedded(ip) or ip
    return any(ip in network for network in _NOT_PUBLIC if network.version == ip.version)


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, as gateways understand it; None if it stands for itself."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour
