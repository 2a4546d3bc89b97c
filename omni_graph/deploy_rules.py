"""What a deployment must keep for its graph: one function, one code, one sentence of error for each rule.

Pure functions of Facts, as in ``rules``.
"""

from __future__ import annotations

from collections.abc import Iterator

from omni_graph.bound import memory_bound, size_text
from omni_graph.codes import FaultCode
from omni_graph.errors import Fault
from omni_graph.facts import Facts
from omni_graph.rules import Rule
from omni_graph.spec import NODE_KEYS, StageSpec
from omni_graph.suggest import suggest


def stages_exist(facts: Facts) -> Iterator[Fault]:
    """OG019: every stage of the deploy file, and every ``with:``, is a node of the graph."""
    nodes, source = facts.spec.nodes, facts.deploy.source
    for name, stage in facts.deploy.stages.items():
        if name not in nodes:
            message = f"the graph has no node `{name}`{suggest(name, nodes)}"
            yield source.at_key(FaultCode.UNKNOWN_STAGE, ("stages", name), message)
        if stage.with_ is not None and stage.with_ not in nodes:
            message = f"the graph has no node `{stage.with_}`{suggest(stage.with_, nodes)}"
            yield source.at_value(FaultCode.UNKNOWN_STAGE, ("stages", name, "with"), message)


def shared_stages_are_simple(facts: Facts) -> Iterator[Fault]:
    """OG020: a stage ``with:`` another has no workers of its own, and the other has."""
    for name, stage in facts.deploy.stages.items():
        place = ("stages", name, "with")
        if stage.with_ is None:
            continue
        if stage.with_ == name or facts.deploy.stage(stage.with_).with_ is not None:
            message = f"`{stage.with_}` has no workers of its own; name the stage whose workers both live in"
            yield facts.deploy.source.at_value(FaultCode.SHARED_STAGE, place, message)
        for key in _own_workers(stage):
            message = f"`{key}` belongs to the workers of `{stage.with_}`, where `{name}` lives; set it there"
            yield facts.deploy.source.at_key(FaultCode.SHARED_STAGE, ("stages", name, key), message)


def _own_workers(stage: StageSpec) -> list[str]:
    return [key for key in StageSpec.model_fields if key in stage.model_fields_set and key not in NODE_KEYS]


def memory_is_bounded(facts: Facts) -> Iterator[Fault]:
    """OG021: packets in flight cannot take more than ``memory_limit``."""
    bound = memory_bound(facts.edges, facts.classes, facts.deploy)
    limit = facts.deploy.memory_limit
    if bound.in_flight > limit:
        worst = max(bound.rows, key=lambda row: row.total)
        message = (
            f"packets in flight may take {size_text(bound.in_flight)}, over memory_limit {size_text(limit)}; the largest "
            f"part is {worst.edge} with {size_text(worst.total)}. Lower max_requests or a window, or raise memory_limit"
        )
        yield facts.deploy.source.at_value(FaultCode.MEMORY, ("memory_limit",), message)


DEPLOY_RULES: tuple[Rule, ...] = (stages_exist, shared_stages_are_simple, memory_is_bounded)
