"""A plan -> what the Gateway and the launchers need of it. Values only; nothing is started here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omni_graph.config import config_of
from omni_graph.plan import Plan, Stage
from omni_graph.runtime.replica import EdgeStart, NodeStart, Placement, ReplicaSpec
from omni_graph.topology import Topology
from omni_graph.wiring import Edge


def topology(plan: Plan) -> Topology:
    """What the Gateway needs of the plan."""
    hosts = {stage.host for stage in plan.stages.values()}
    deploy = plan.deploy
    return Topology(
        plan.edges,
        {name: stage.host for name, stage in plan.stages.items()},
        {host: deploy.stage(host).streams for host in hosts},
        deploy.max_requests,
        deploy.queue,
        deploy.retries,
        frozenset(name for name, stage in plan.stages.items() if not getattr(stage.node_class, "replay", True)),
        deploy.limits.output_bytes,
        deploy.limits.input_bytes,
    )


def hosts_of(plan: Plan, stages: Iterable[str]) -> tuple[str, ...]:
    """The stages in whose workers ``stages`` live, in graph order."""
    asked = set(stages)
    return tuple(dict.fromkeys(stage.host for name, stage in plan.stages.items() if name in asked))


def host_spec(
    plan: Plan,
    host: str,
    bind: str,
    run_folder: str,
    threads: int,
    log_level: str,
    config: Mapping[str, Any] | None = None,
) -> ReplicaSpec:
    """The spec of one replica of ``host``, its name still ``host/0.0``. ``config`` changes values of the host's own node."""
    members = [stage for stage in plan.stages.values() if stage.host == host]
    names = {stage.name for stage in members}
    how = plan.deploy.stage(host)
    return ReplicaSpec(
        name=f"{host}/0.0",
        nodes=tuple(_node_start(stage, plan, (config or {}) if stage.name == host else {}) for stage in members),
        edges=tuple(_edge_start(edge) for edge in plan.edges if edge.writer in names or edge.reader in names),
        folder=str(Path(plan.folder).resolve()),
        wiring=plan.wiring,
        bind=bind,
        run_folder=run_folder,
        threads=how.threads or threads,
        max_step_s=how.max_step_s,
        streams=how.streams,
        nice=how.nice,
        log_level=log_level,
        preload=tuple(sorted({m for stage in members for m in getattr(stage.node_class, "preload", ())})),
        env=how.env,
        placement=Placement(how.cpu, how.gpu, how.memory, how.labels, how.spread, plan.deploy.place_timeout_s),
    )


def threads_each(plan: Plan, hosts: Iterable[str]) -> int:
    """Compute threads of a worker where the deploy file says nothing: this machine's cores, shared."""
    workers = sum(plan.deploy.stage(host).replicas for host in hosts)
    return max(1, (os.cpu_count() or 1) // max(1, workers))


def _edge_start(edge: Edge) -> EdgeStart:
    return EdgeStart(edge.number, edge.writer, edge.writer_port, edge.reader, edge.reader_port, edge.window)


def _node_start(stage: Stage, plan: Plan, changed: Mapping[str, Any]) -> NodeStart:
    """Config, and what the framework gives to constructors that ask for it."""
    given = {"device": stage.spec.device, "kv_bytes": stage.spec.kv_bytes, "limits": plan.deploy.limits.model_dump()}
    wanted = config_of(stage.node_class).framework
    extra = {key: value for key, value in given.items() if key in wanted}
    return NodeStart(stage.name, stage.uses, {**stage.config, **changed, **extra})
