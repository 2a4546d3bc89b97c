"""Where links may bind and connect: ipc inside a directory that only we can enter, tcp on an exact loopback address.

Anything wider is refused, not warned about: off loopback a link must be encrypted, and these links are not yet.
"""

from __future__ import annotations

import os
import re
import stat
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from uuid import uuid4

from omni_graph.errors import Fault, GraphError
from omni_graph.frames import Address

IPC, TCP = "ipc://", "tcp://"
MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path, less its NUL


def bind_endpoint(bind: str) -> str:
    """The endpoint to bind for ``ipc:///directory`` (a new file in it) or ``tcp://a.b.c.d[:port]`` (no port: any free one).

    GraphError when the directory is not ours alone, or the address is not an exact loopback address.
    """
    if bind.startswith(IPC):
        return f"{IPC}{_socket_file(bind)}"
    reason = _tcp_fault(bind)
    if reason:
        raise _unsafe(bind, reason)
    return bind if bind.count(":") == 2 else f"{bind}:*"


def connect_fault(address: Address) -> str:
    """Why no link may be opened to ``address``; empty when one may."""
    if address.public_key:
        return f"{address.endpoint} asks for CURVE, which these links do not speak"
    if address.endpoint.startswith(IPC):
        return "" if address.endpoint.startswith(f"{IPC}/") else f"{address.endpoint} is no absolute path"
    return _tcp_fault(address.endpoint)


def _tcp_fault(endpoint: str) -> str:
    match = re.fullmatch(r"tcp://([^:/]+)(:\d{1,5})?", endpoint)
    if match is None:
        return "expected ipc:///directory or tcp://a.b.c.d[:port]"
    try:
        host = IPv4Address(match[1])
    except AddressValueError:
        return f"{match[1]!r} is no IPv4 address; sockets bind to exactly the address in use, never to a wildcard or a name"
    if not host.is_loopback:
        return f"{host} is beyond loopback, where links must be encrypted with CURVE; allowed: 127.0.0.0/8"
    return ""


def _socket_file(bind: str) -> Path:
    directory = Path(bind.removeprefix(IPC))
    if not directory.is_absolute():
        raise _unsafe(bind, "an ipc address is ipc:// and an absolute directory; abstract names are not private")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_private(bind, directory)
    path = directory / f"{uuid4().hex}.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise _unsafe(bind, f"{path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path")
    return path


def _require_private(bind: str, directory: Path) -> None:
    seen = directory.lstat()
    if not stat.S_ISDIR(seen.st_mode):
        raise _unsafe(bind, f"{directory} is not a directory of its own (a link to one is not enough)")
    if seen.st_uid != os.geteuid():
        raise _unsafe(bind, f"{directory} belongs to user {seen.st_uid}; it must belong to {os.geteuid()}")
    if seen.st_mode & 0o077:
        raise _unsafe(bind, f"{directory} has mode {stat.S_IMODE(seen.st_mode):04o}; it must be 0700")


def _unsafe(bind: str, reason: str) -> GraphError:
    return GraphError([Fault("unsafe-bind", f"cannot bind {bind}: {reason}")])
