"""Ray's side of ``hop``: an actor call, and a call through a compiled graph's shared-memory channel; one-way times.

Only where ray is installed. One at a time, as the others: a call's time runs from just before it to the first line of the
actor's method. The bytes are a numpy array in both, which is what Ray moves best.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.idle import busy_share

CHANNEL_BYTES = (16 << 20) + (1 << 16)


def installed() -> bool:
    """Can ray be imported here?"""
    return find_spec("ray") is not None


class _Receiver:
    """The actor."""

    def receive(self, message: tuple[int, Any]) -> int:
        """Nanoseconds since ``message``'s stamp."""
        return time.monotonic_ns() - message[0]

    def pid(self) -> int:
        """Its process."""
        import os

        return os.getpid()


class RayHop:
    """A local Ray with one actor for calls and one behind a compiled graph."""

    def __init__(self) -> None:
        import ray
        from ray._private import ray_constants
        from ray.dag import InputNode

        self._ray = ray
        ray_constants.ENABLE_RAY_CLUSTER = False  # or it would listen beyond loopback: docs/decisions/0011-ray.md
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=512 << 20, configure_logging=False,
        )  # fmt: skip
        remote = ray.remote(num_cpus=0)(_Receiver)
        self._actor, looped = remote.remote(), remote.remote()
        self._looped_pid = ray.get(looped.pid.remote())
        with InputNode() as message:
            graph = looped.receive.bind(message)
        self._compiled = graph.experimental_compile(_buffer_size_bytes=CHANNEL_BYTES)

    def call(self, size: int, times: int) -> list[float]:
        """One-way times in seconds of actor calls with ``size`` bytes."""
        body = np.zeros(size, np.uint8)
        return [self._ray.get(self._actor.receive.remote((time.monotonic_ns(), body))) * 1e-9 for _ in range(times)]

    def compiled(self, size: int, times: int) -> list[float]:
        """The same through the compiled graph."""
        body = np.zeros(size, np.uint8)
        return [self._ray.get(self._compiled.execute((time.monotonic_ns(), body))) * 1e-9 for _ in range(times)]

    def idle_share(self, seconds: float) -> float:
        """Share of a core that the compiled graph's actor uses while nobody calls it."""
        return busy_share([self._looped_pid], seconds)

    def __enter__(self) -> RayHop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._compiled.teardown()
        self._ray.shutdown()
