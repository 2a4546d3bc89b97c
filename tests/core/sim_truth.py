"""The right answers: what a request gets alone, undisturbed, for its seed or for choices that were made. And the runs that
are measured by them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from tests.core.sim_oracle import Violation
from tests.core.sim_setting import Choices, Setting, Truth, Undisturbed
from tests.core.simulation import World

if TYPE_CHECKING:
    from tests.core.sim_client import Client


class Answers(Truth):
    """Works them out with the same code, in a calm deployment with large windows."""

    def __init__(self, shape: str) -> None:
        self._shape = shape

    def by_seed(self, client: Client) -> Undisturbed:
        return undisturbed(self._shape, client.script, client.seed, client.outputs)

    def by_choices(self, client: Client, told: Choices) -> Undisturbed:
        return alone(self._shape, client.script, client.seed, client.outputs, told)


def simulate(seed: int, setting: Setting) -> World:
    """One run. A Violation, or an assertion of a node's, notes the shape and the seed."""
    world = World(seed, setting, truth=Answers(setting.shape))
    try:
        world.run()
    except AssertionError as error:
        error.add_note(f"simulate({seed}, {setting})")
        raise
    except Exception as error:
        raise Violation(f"{setting.shape}, seed {seed}: {error!r}") from error
    return world


def alone(shape: str, script: int, seed: int, outputs: tuple[str, ...], told: Choices) -> Undisturbed:
    """One request, no fault, large windows, a fixed order, and these choices."""
    world = World(0, Setting(shape, faults=(), calm=True), told=told)
    client = world.add_client("alone", script, seed, outputs)
    world.run()
    packets = {output: tuple(got) for output, got in client.got.items()}
    carried: dict[str, Mapping[str, int]] = {output: dict(world.oracle.carried("alone", output)) for output in outputs}
    return Undisturbed(packets, carried)


@cache
def undisturbed(shape: str, script: int, seed: int, outputs: tuple[str, ...]) -> Undisturbed:
    """The same, by the seed alone."""
    return alone(shape, script, seed, outputs, {})
