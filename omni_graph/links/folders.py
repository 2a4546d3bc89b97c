"""The folder of ipc sockets: ours alone (mode 0700), and how a peer tells that it sees the very same folder.

Whoever may enter it may send us frames, so anything less private is refused, never repaired.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path, less its NUL
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def make_private(folder: Path) -> str:
    """Make the folder if it is absent; why it is not ours alone, else empty."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return privacy_fault(folder)


def privacy_fault(folder: Path) -> str:
    """Why ``folder``, which exists, is not ours alone; empty when it is."""
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode):
        return f"{folder} is not a directory of its own (a link to one is not enough)"
    if seen.st_uid != os.geteuid():
        return f"{folder} belongs to user {seen.st_uid}; it must belong to {os.geteuid()}"
    if seen.st_mode & 0o077:
        return f"{folder} has mode {stat.S_IMODE(seen.st_mode):04o}; it must be 0700"
    return ""


def new_socket_file(folder: Path) -> Path:
    """A path in ``folder`` that was never used: a second bind on one path would silently take it over."""
    return folder / f"{uuid4().hex}.sock"


def socket_path_fault(path: Path) -> str:
    """Why no socket can be at ``path``; empty when one can."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return f"{path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path"
    return ""


def host_token(folder: Path) -> str:
    """Equal at two processes exactly when both see the same folder of the same running kernel. OSError when it is not seen.

    Hostnames and addresses repeat between containers; a boot id with a device and an inode number does not.
    """
    seen = folder.lstat()
    return sha256(f"{BOOT_ID.read_text().strip()} {seen.st_dev} {seen.st_ino}".encode()).hexdigest()[:16]


def is_here(folder: Path, token: str) -> bool:
    """Is the folder that ``token`` was made for the one we see here, and ours alone?"""
    try:
        return host_token(folder) == token and not privacy_fault(folder)
    except OSError:  # absent here, or not ours to look at: another host, container or user
        return False
