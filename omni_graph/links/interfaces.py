"""Which address of ours a peer can reach, on a machine with several interfaces. For launchers; sends nothing."""

from __future__ import annotations

import socket
from ipaddress import AddressValueError, IPv4Address

from omni_graph.errors import LinkError

DISCARD_PORT = 9  # RFC 863; never sent to


def address_toward(peer_ip: str) -> str:
    """The IPv4 address that this machine would call ``peer_ip`` from, hence the one for it to call back; bind to it.

    Connecting a UDP socket asks the routing table and sends no packet. LinkError when ``peer_ip`` is no IPv4 address, or no
    route leads there.
    """
    try:
        peer = IPv4Address(peer_ip)
    except AddressValueError:
        raise LinkError(f"{peer_ip!r} is no IPv4 address") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(peer), DISCARD_PORT))
        except OSError as error:
            raise LinkError(f"no route from here to {peer}: {error.strerror}") from None
        return str(probe.getsockname()[0])
