"""Keeps this process from connecting to anywhere but itself."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

_EVENTS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0}
_EVENTS |= {"socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
"""Events of Python's audit and which of their arguments is the address."""

_off = False


def refuse_connections() -> None:
    """From now on, for as long as the process lives, connecting to another machine raises PermissionError.

    Gradio fetches what a request names by URL; a page that shows local files to its owner needs none of that.
    """
    global _off
    if not _off:
        _off = True
        sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    place = _EVENTS.get(event)
    if place is not None and not is_here(arguments[place]):
        raise PermissionError(f"this process connects to no other machine: {event} was refused")


def is_here(address: Any) -> bool:
    """Whether an address (a host, or a host and a port) is this machine's own, without asking anybody."""
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode("latin-1")
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
