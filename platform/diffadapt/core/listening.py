"""What every server of the package shares: where it listens, who reaches it there, by which address it is
opened."""

from __future__ import annotations

import ipaddress
import socket


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_alone(host: str) -> bool:
    """Whether only this machine reaches a server that listens at ``host``."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host == "localhost"


def address(host: str, port: int) -> str:
    """The URL of a server, without a path: http://127.0.0.1:8000, http://[::1]:8000."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds ``port`` (0: one that is free) at ``host`` and does not listen yet. Raises OSError
    where that cannot be."""
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(place)
    except OSError:
        held.close()
        raise
    return held
