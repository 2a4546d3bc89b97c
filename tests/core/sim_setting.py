"""The values of a simulation: its setting, its replicas, and the right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omni_graph.core import WorkerCore

if TYPE_CHECKING:
    from tests.core.sim_client import Client

FAULTS = ("kill", "cut", "control", "bug", "request_error", "cancel", "drop")
LOSSES = ("kill", "cut", "control", "partition", "stuck", "drain", "kill", "cut", "cancel", "drop", "give_up")
SCRIPTS, SEEDS = 8, 4
KEPT_BYTES = 88  # what a toy packet counts among the inputs that are kept


@dataclass(frozen=True, slots=True)
class Setting:
    """What is not drawn from the seed. ``faults``: kinds that may happen, ``least`` to ``count`` of them.

    ``calm``: nothing is drawn but the order of events; one replica a stage, and the clients that the test adds.
    ``replay``: what was lost is opened again; half of the deployments choose otherwise each time, as floats in another
    batch do. ``poison``: the first client's request kills any replica of one stage, in the first slice that it is in.
    """

    shape: str
    faults: tuple[str, ...] = FAULTS
    count: int = 3
    calm: bool = False
    window: int = 8
    replay: bool = False
    least: int = 0
    poison: bool = False


def replaying(shape: str) -> Setting:
    """Many losses, and what is lost is opened again."""
    return Setting(shape, LOSSES, least=1, count=6, replay=True)


def poisoned(shape: str) -> Setting:
    """The first client's request kills every replica of one stage that it is opened in."""
    return Setting(shape, (), count=0, replay=True, poison=True)


Choices = Mapping[str, Sequence[tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a request gets when nothing is in its way, and how many choices of each node come with it, by output."""

    packets: Mapping[str, tuple[Any, ...]]
    choices: Mapping[str, Mapping[str, int]]


class Truth:
    """Nobody knows the right answers; see sim_truth.py for who does."""

    def by_seed(self, client: Client) -> Undisturbed | None:
        """The answer to a client whose nodes choose by its seed."""
        return None

    def by_choices(self, client: Client, told: Choices) -> Undisturbed | None:
        """The answer to a client whose nodes have chosen so."""
        return None


@dataclass(slots=True)
class Worker:
    """A replica: its core, its nodes, and the stage it serves."""

    name: str
    host: str
    core: WorkerCore
    nodes: Mapping[str, Any]
    doomed: bool = False
