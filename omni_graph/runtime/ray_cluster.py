"""The Ray that this process uses: one it was given, the cluster at an address, or a local one of its own.

Ray is one per process, and so is what stands here. Only what was started here is ended here, when its last user leaves. A
local Ray listens on loopback alone, asks for a token, and keeps all its files in a 0700 folder that goes with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.runtime_env import packaging
from ray._private.state import available_resources_per_node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # in the binary, not in its stub

from omni_graph.errors import LaunchError
from omni_graph.runtime.ray_placement import Machine
from omni_graph.runtime.run_folder import RunFolder

TEMPORARY, PREFIX = "/tmp", "omni-graph-ray-"  # short: a socket's path has at most 107 bytes
OBJECT_STORE_BYTES = 80 << 20  # the least that Ray takes: no packet of ours passes through it
TOKEN_BYTES = 32
AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
log = logging.getLogger("omni_graph.ray")
QUIET: Mapping[str, Any] = {"log_to_driver": False, "configure_logging": False}


class _Started:
    """What this process has started, and how many use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.folder: RunFolder | None = None
        self.print = ray_worker.print_to_stdstream


_started = _Started()


class RayCluster:
    """One user's hold on Ray. ``local``: nothing but this machine, started here. ``close`` lets go of it, once."""

    def __init__(self, address: str | None) -> None:
        """``address`` of a running cluster; None: a local Ray. Either way a Ray that this process has already is used."""
        self._open = True
        with _started.lock:
            self._counted = not ray.is_initialized() or _started.users > 0
            if not ray.is_initialized():
                _start(address)
            _started.users += self._counted
            self.local = self._counted and _started.folder is not None
        self.node_id: str = ray.get_runtime_context().get_node_id()
        self.address: str = ray.util.get_node_ip_address()

    def machines(self) -> list[Machine]:
        """The live nodes, now."""
        free = available_resources_per_node()
        return [
            Machine(node["NodeID"], node["NodeManagerAddress"], node["Labels"], node["Resources"], free[node["NodeID"]])
            for node in ray.nodes()
            if node["Alive"] and node["NodeID"] in free
        ]

    def is_one_machine(self) -> bool:
        """No node but that of this process."""
        return [one.node_id for one in self.machines()] == [self.node_id]

    def upload(self, folder: str) -> str:
        """Put a folder into the cluster's storage; its URI, for a runtime environment. LaunchError when it is too large."""
        excludes = ray_constants.get_runtime_env_default_excludes()
        uri: str = packaging.get_uri_for_directory(folder, include_gitignore=True, excludes=excludes)
        with tempfile.TemporaryDirectory(prefix="omni-graph-upload-") as scratch:
            try:
                packaging.upload_package_if_needed(uri, scratch, folder, include_gitignore=True, excludes=excludes)
            except ValueError as error:
                raise LaunchError(f"the graph's folder {folder} cannot travel to other machines: {error}") from error
        return uri

    def close(self) -> None:
        """Let go; the last user ends what was started here. Idempotent."""
        with _started.lock:
            if self._open and self._counted:
                _started.users -= 1
                if _started.users == 0:
                    _end()
            self._open = False


def _start(address: str | None) -> None:
    ray_worker.print_to_stdstream = _to_log
    try:
        with _signals_as_before():
            if address is None:
                _start_local()
            else:
                _connect(address)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = "a local Ray" if address is None else f"Ray at {address}"
        _end()
        raise LaunchError(f"could not use {where}: {error}") from error


def _end() -> None:
    ray.shutdown()
    ray_worker.print_to_stdstream = _started.print
    if _started.folder is not None:
        _started.folder.remove()
        _started.folder = None


def _to_log(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Ray tells of a dead worker on stdout, where our output goes; it is the supervisor that tells of it."""
    for line in data["lines"]:
        log.info("%s", line)


def _connect(address: str) -> None:
    """To a running cluster. Whoever reaches an open Ray runs code in it, so the user must have said which kind it is."""
    mode = os.environ.get(AUTH_MODE)
    if mode not in ("token", "disabled"):
        raise RuntimeError(
            f"{AUTH_MODE} is {mode!r}; allowed are `token`, with the cluster's token in {AUTH_TOKEN_PATH}, and"
            " `disabled`, for a cluster that has none and that nobody else can reach"
        )
    with _loopback() if _is_loopback(address) else nullcontext():
        _forget_authentication()
        ray.init(address=address, **QUIET)


def _start_local() -> None:
    _started.folder = RunFolder(PREFIX, TEMPORARY)
    token = {AUTH_MODE: "token", AUTH_TOKEN_PATH: str(_make_token(Path(_started.folder.path)))}
    with _environment(token | {"RAY_USAGE_STATS_ENABLED": "0"}, without=(AUTH_TOKEN,)), _loopback():
        _forget_authentication()
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=f"{_started.folder.path}/r",  # Ray opens this folder to everybody; the one around it is closed
            **QUIET,
        )
    where = ray.util.get_node_ip_address()
    if not ip_address(where).is_loopback:
        raise RuntimeError(
            f"it listens on {where}; allowed is loopback. Start one with `ray start --head` and set RAY_ADDRESS"
        )


def _make_token(folder: Path) -> Path:
    path = folder / "token"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as token:
        token.write(secrets.token_hex(TOKEN_BYTES))
    return path


def _forget_authentication() -> None:
    """Ray reads mode and token once a process; an earlier Ray of this process had others. In this order, or it aborts."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "localhost:"))


@contextmanager
def _environment(values: Mapping[str, str], without: tuple[str, ...]) -> Iterator[None]:
    """The environment that Ray's processes inherit; this process's own is afterwards as it was."""
    before = {key: os.environ.get(key) for key in (*values, *without)}
    os.environ.update(values)
    for key in without:
        os.environ.pop(key, None)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            os.environ.update({} if value is None else {key: value})


@contextmanager
def _loopback() -> Iterator[None]:
    """Ray replaces 127.0.0.1 by the address of a network interface unless it is told that it will never be a cluster."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Ray takes SIGTERM for itself; what a SIGTERM means here is for the program to say."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
