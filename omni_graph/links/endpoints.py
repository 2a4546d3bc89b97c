"""Where links may bind and connect: ipc in a folder that only we can enter, tcp on an exact address.

Off loopback tcp needs CURVE. Anything wider is refused, not warned about. An Address may list both of a replica's
endpoints, ``ipc:///path tcp://a.b.c.d:port host:token``: a peer that sees the same folder takes ipc, any other tcp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from omni_graph.errors import Fault, GraphError, LinkError
from omni_graph.frames import Address
from omni_graph.links.folders import host_token, is_here, make_private, new_socket_file, socket_path_fault
from omni_graph.links.keys import KeyPair, require_public_key

IPC, TCP, HOST = "ipc://", "tcp://", "host:"
EXPECTED = "expected ipc:///directory or tcp://a.b.c.d[:port]"


def bind_endpoints(bind: str | Sequence[str], keys: KeyPair | None = None) -> tuple[str, ...]:
    """The endpoints to bind, ipc before tcp. ``bind`` is one or both of:

    ``ipc:///directory`` (a new file in it) and ``tcp://a.b.c.d[:port]`` (no port: any free one). GraphError when the
    directory is not ours alone, the address is no exact one, or it is beyond loopback and there are no ``keys``.
    """
    binds = [bind] if isinstance(bind, str) else sorted(bind)
    schemes = [one.partition("//")[0] for one in binds]
    if not binds or len(set(schemes)) < len(schemes):
        raise _unsafe(" ".join(binds), "expected one ipc address, one tcp address, or one of each")
    return tuple(_bind_endpoint(one, keys) for one in binds)


def listing(bound: Sequence[str]) -> str:
    """What an Address says of the endpoints that were bound."""
    if len(bound) == 1:
        return bound[0]
    ipc, tcp = bound
    return f"{ipc} {tcp} {HOST}{host_token(_folder(ipc))}"


def nearest(endpoint: str) -> str:
    """The one of an Address's endpoints to connect to from here."""
    both = re.fullmatch(f"({IPC}/.+) ({TCP}\\S+) {HOST}(\\S+)", endpoint)
    if both is None:
        return endpoint
    ipc, tcp, token = both.groups()
    return ipc if is_here(_folder(ipc), token) else tcp


def connect_endpoint(address: Address, keys: KeyPair | None = None) -> str:
    """Where to connect to reach ``address`` from here. LinkError when no safe link can be made."""
    endpoint = nearest(address.endpoint)
    if endpoint.startswith(IPC):
        if not endpoint.startswith(f"{IPC}/"):
            raise LinkError(f"{endpoint} is no absolute path")
        return endpoint
    host = _exact_host(endpoint)
    if address.public_key:
        require_public_key(address.public_key)
        if keys is None:
            raise LinkError(f"{endpoint} asks for CURVE, and these links have no key pair")
    elif not host.is_loopback:
        raise LinkError(f"{_beyond(host)}; its address has no public key")
    return endpoint


def _bind_endpoint(bind: str, keys: KeyPair | None) -> str:
    if bind.startswith(IPC):
        return f"{IPC}{_socket_file(bind)}"
    try:
        host = _exact_host(bind)
    except LinkError as error:
        raise _unsafe(bind, str(error)) from None
    if keys is None and not host.is_loopback:
        raise _unsafe(bind, f"{_beyond(host)}; allowed without a key pair: 127.0.0.0/8")
    return bind if bind.count(":") == 2 else f"{bind}:*"


def _exact_host(endpoint: str) -> IPv4Address:
    """The one address that a tcp endpoint means; LinkError when it may mean several or none."""
    match = re.fullmatch(r"tcp://([^:/]+)(:\d{1,5})?", endpoint)
    if match is None:
        raise LinkError(f"{EXPECTED}, saw {endpoint[:100]!r}")
    try:
        host = IPv4Address(match[1])
    except AddressValueError:
        reason = "sockets bind to exactly the address in use, never to a wildcard or a name"
        raise LinkError(f"{match[1]!r} is no IPv4 address; {reason}") from None
    if host.is_unspecified or host.is_multicast or host.is_reserved:
        raise LinkError(f"{host} is a wildcard or a group, not the address of one interface")
    return host


def _beyond(host: IPv4Address) -> str:
    return f"{host} is beyond loopback, where links must be encrypted with CURVE"


def _socket_file(bind: str) -> Path:
    directory = Path(bind.removeprefix(IPC))
    if not directory.is_absolute():
        raise _unsafe(bind, "an ipc address is ipc:// and an absolute directory; abstract names are not private")
    path = new_socket_file(directory)
    fault = make_private(directory) or socket_path_fault(path)
    if fault:
        raise _unsafe(bind, fault)
    return path


def _folder(ipc: str) -> Path:
    return Path(ipc.removeprefix(IPC)).parent


def _unsafe(bind: str, reason: str) -> GraphError:
    return GraphError([Fault("unsafe-bind", f"cannot bind {bind}: {reason}")])
