"""What a replica asks of Ray, and which of it is short. Pure: knows Ray's words for resources, and imports none of Ray.

An actor lives on one machine, so an ask is held against each machine by itself, never against their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omni_graph.runtime.child import thread_environment
from omni_graph.runtime.replica import Placement, ReplicaSpec

CONTROL_CALLS = 2  # one that waits for news, and one that says stop or reads the log


@dataclass(frozen=True, slots=True)
class Machine:
    """A live node of the Ray cluster: its address and labels, and what it has and has left, by Ray's names."""

    node_id: str
    address: str
    labels: Mapping[str, str]
    total: Mapping[str, float]
    free: Mapping[str, float]


def asked(placement: Placement) -> dict[str, float]:
    """Resource -> amount, by Ray's names; memory in bytes."""
    wanted = {"CPU": placement.cpu, "GPU": placement.gpu, "memory": float(placement.memory or 0)}
    return {name: amount for name, amount in wanted.items() if amount > 0}


def actor_options(spec: ReplicaSpec, working_dir: str | None) -> dict[str, Any]:
    """Options of the actor of one replica. Ray never restarts it and never repeats a call: that is the supervisor's.

    The environment is in place before the process imports anything; without it Ray sets OMP_NUM_THREADS by itself.
    """
    placement = spec.placement
    environment: dict[str, Any] = {"env_vars": {**thread_environment(spec.threads), **spec.env}}
    if working_dir is not None:
        environment["working_dir"] = working_dir
    return {
        "num_cpus": placement.cpu,
        "num_gpus": placement.gpu,
        "memory": placement.memory,
        "label_selector": dict(placement.labels) or None,
        "scheduling_strategy": "SPREAD" if placement.spread else None,
        "runtime_env": environment,
        "max_concurrency": CONTROL_CALLS,
        "max_restarts": 0,
        "max_task_retries": 0,
    }


def never_fits(placement: Placement, machines: Sequence[Machine]) -> str:
    """Why no machine could hold this replica even if it were empty; nothing when one could."""
    fitting = [one for one in machines if _has_labels(one, placement)]
    if not fitting:
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(placement.labels.items()))
        return f"no machine has the labels {wanted}; machines and their labels: {_labels(machines)}"
    if any(_holds(one.total, placement) for one in fitting):
        return ""
    return _short(placement, [one.total for one in fitting], "the largest machine has")


def shortage(placement: Placement, machines: Sequence[Machine]) -> str:
    """Which resource keeps this replica from being placed now; nothing when none is short."""
    reason = never_fits(placement, machines)
    if reason:
        return reason
    fitting = [one for one in machines if _has_labels(one, placement)]
    if any(_holds(one.free, placement) for one in fitting):
        return ""
    return _short(placement, [one.free for one in fitting], "no machine has more free than")


def _has_labels(machine: Machine, placement: Placement) -> bool:
    return all(machine.labels.get(key) == value for key, value in placement.labels.items())


def _holds(amounts: Mapping[str, float], placement: Placement) -> bool:
    return all(amounts.get(name, 0.0) >= amount for name, amount in asked(placement).items())


def _short(placement: Placement, amounts: Sequence[Mapping[str, float]], words: str) -> str:
    """Each resource that is short everywhere; when each is met somewhere but never together, all of them."""
    wanted = asked(placement)
    best = {name: max(one.get(name, 0.0) for one in amounts) for name in wanted}
    scarce = [name for name in wanted if best[name] < wanted[name]]
    parts = [f"{name}: {wanted[name]:g} asked, {words} {best[name]:g}" for name in scarce or wanted]
    return "; ".join(parts) + ("" if scarce else ", on different machines")


def _labels(machines: Sequence[Machine]) -> str:
    shown = []
    for one in machines:
        own = [f"{key}={value}" for key, value in sorted(one.labels.items()) if not key.startswith("ray.io/")]
        shown.append(f"{one.address}: {', '.join(own) or 'none'}")
    return "; ".join(shown) or "there is no machine"
