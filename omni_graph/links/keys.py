"""CURVE: the key pair of one replica or Gateway, made in its own process. Only the public key ever leaves it.

Both ends prove their key: a caller expects the key in the Address it calls, a listener asks its gate (gate.py) about the
caller's. The secret is in no repr, no option table, no file, and cannot be copied or pickled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

import zmq

from omni_graph.errors import LinkError
from omni_graph.frames import Address

PATIENCE_S = 4.0  # less than HANDSHAKE_IVL, so that the gate and not a timer ends a handshake
ZAP_DOMAIN = b"omni_graph"
CURVE_BYTES = 33  # what encryption adds to a part on the wire: command name, nonce, flags, authenticator
_Z85_KEY = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")


class KeyPair:
    """A new CURVE key pair. ``public`` is its public half as 40 characters of Z85 (ZeroMQ RFC 32)."""

    __slots__ = ("_secret", "public")

    def __init__(self) -> None:
        public, self._secret = zmq.curve_keypair()
        self.public = public.decode()

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key pair stays in the process that made it; send its public key")

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """What ``socket`` binds from now on demands CURVE and asks the gate of its context; with no gate it is shut."""
        self._encrypt(socket)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def call(self, socket: zmq.Socket[bytes], public_key: str) -> None:
        """``socket`` connects only to who holds the secret of ``public_key``, and proves ours."""
        self._encrypt(socket)
        socket.setsockopt(zmq.CURVE_SERVERKEY, public_key.encode())

    def _encrypt(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        socket.setsockopt(zmq.MAXMSGSIZE, int(socket.getsockopt(zmq.MAXMSGSIZE)) + CURVE_BYTES)


@dataclass(frozen=True, slots=True)
class Curve:
    """How links are encrypted. ``introduced``: who may connect from the start (for a replica: the Gateway).

    ``patience_s``: how long a caller whose key nobody has introduced yet waits before it is refused; below the 5 s that
    libzmq gives a handshake.
    """

    keys: KeyPair
    introduced: tuple[Address, ...] = ()
    patience_s: float = PATIENCE_S


def require_public_key(text: str) -> None:
    """LinkError unless ``text`` is a public key as it travels in an Address."""
    if not _Z85_KEY.fullmatch(text):
        raise LinkError(f"a public key of {len(text)} characters, {text[:40]!r}; allowed: 40 of Z85")
