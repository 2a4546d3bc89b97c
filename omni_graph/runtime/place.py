"""One place of a stage, through all the lives of the replica in it: what is known of it, and what it needs now.

Judges only; ``replicas`` does what is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from omni_graph.runtime.replica import Handle, ReplicaSpec, State

FROZEN_S = 0.25
FORGIVEN_S = 600.0  # after so long a life it takes all its requests again


class Need(Enum):
    """What is to be done about a replica."""

    START = auto()
    END_FROZEN = auto()
    END_STUCK = auto()
    ALL_SLOTS = auto()


@dataclass(slots=True)
class Replica:
    """One place of a stage, through all its lives. ``state`` is what the Gateway has been told, so never ahead of it;
    ``going``: it is being taken away and must not come back; ``revision`` of its config and weights; ``slots``: requests it
    takes at once, fewer than its spec's for a while after it ran out of memory; ``last_end``: how its last life that ended
    did; ``ending``: why we end the present one."""

    host: str
    index: int
    spec: ReplicaSpec
    revision: int = 0
    handle: Handle | None = None
    state: State = State.LOADING
    life: int = -1
    ready_since: float | None = None
    restart_at: float | None = None
    frozen_since: float | None = None
    going: bool = False
    detail: str = ""
    slots: int = field(init=False)
    last_end: str = ""
    ending: str = ""

    def __post_init__(self) -> None:
        self.slots = self.spec.streams

    @property
    def name(self) -> str:
        """Of its present life."""
        return f"{self.host}/{self.index}.{self.life}"

    def need(self, now: float) -> tuple[Need, str] | None:
        """The one thing to do now, and why; None: it gets on. Past its ``max_step_s`` it is dead, whatever it does."""
        if self.restart_at is not None:
            return (Need.START, "") if now >= self.restart_at else None
        handle = self.handle
        if handle is None:
            return None
        if self.state is State.READY and self._is_frozen(handle, now):
            return Need.END_FROZEN, "its process is stopped"
        if handle.state is State.READY and (in_step := handle.beat.in_step_s) > handle.spec.max_step_s:
            return Need.END_STUCK, f"in one step for {in_step:.1f} s; max_step_s is {handle.spec.max_step_s:g}"
        small = self.state is State.READY and self.slots < self.spec.streams
        return (Need.ALL_SLOTS, "") if small and self._lives_long(now) else None

    def _lives_long(self, now: float) -> bool:
        return self.ready_since is not None and now - self.ready_since > FORGIVEN_S

    def _is_frozen(self, handle: Handle, now: float) -> bool:
        """Stopped for ``FROZEN_S``. Heartbeats would tell too, but late: they must outlast a stall of the whole machine."""
        if not handle.frozen():
            self.frozen_since = None
            return False
        if self.frozen_since is None:
            self.frozen_since = now
        return now - self.frozen_since > FROZEN_S
