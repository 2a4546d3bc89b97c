"""``omni-graph check``: every rule of a graph and its deployment, and what was planned. Builds no node."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_graph.cli.options import DeployOption, GraphArgument, ReportFormat, SetOption
from omni_graph.errors import Fault, GraphError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omni_graph.plan import Plan


def check(
    graph: GraphArgument,
    deploy: DeployOption = None,
    settings: SetOption = None,
    format: Annotated[ReportFormat, typer.Option(help="text for people, json for programs.")] = ReportFormat.TEXT,
) -> None:
    """Check a graph and its deployment.

    No node is built and no model is loaded. Prints what was planned, and how much memory packets can take.
    """
    try:
        plan = _planned(graph, deploy, settings or [])
    except GraphError as error:
        if format is ReportFormat.TEXT:
            raise
        typer.echo(json.dumps({"ok": False, "faults": [_fault(fault) for fault in error.faults]}, indent=2))
        raise typer.Exit(3) from None
    typer.echo(_report(plan) if format is ReportFormat.TEXT else json.dumps(_record(plan), indent=2))


def _planned(graph: str, deploy: str | None, settings: list[str]) -> Plan:
    """Read both files before giving up, so that the faults of both are told."""
    from omni_graph.load import load_deploy, load_graph
    from omni_graph.plan import make_plan

    faults: list[Fault] = []
    loaded, deployment = None, None
    try:
        loaded = load_graph(graph, settings=settings, environ=os.environ)
    except GraphError as error:
        faults += error.faults
    try:
        deployment = load_deploy(deploy) if deploy is not None else None
    except GraphError as error:
        faults += error.faults
    if faults or loaded is None:
        raise GraphError(faults)
    return make_plan(loaded, deployment)


def _report(plan: Plan) -> str:
    sections = [_head(plan), _stages(plan), _edges(plan), _memory(plan), _joins(plan), _notes(plan)]
    return "\n\n".join(section for section in sections if section)


def _head(plan: Plan) -> str:
    deploy = plan.deploy
    return (
        f"{plan.graph}: ok; {len(plan.stages)} stages, {len(plan.edges)} edges; "
        f"launcher {deploy.launcher}, {deploy.max_requests} requests at once"
    )


def _stages(plan: Plan) -> str:
    rows = [("stage", "uses", "replicas x streams")]
    for stage in plan.stages.values():
        own = f"{stage.spec.replicas} x {stage.spec.streams}"
        rows.append((stage.name, stage.uses, own if stage.host == stage.name else f"with {stage.host}"))
    return _table(rows)


def _edges(plan: Plan) -> str:
    from omni_graph.bound import size_text

    rows = [("edge", "type", "window", "packet", "at most")]
    for row in plan.bound.rows:
        rows.append((row.edge, row.type, str(row.window), size_text(row.packet_bytes), size_text(row.total)))
    return _table(rows)


def _memory(plan: Plan) -> str:
    from omni_graph.bound import size_text

    bound = plan.bound
    parts = [
        ("edges", size_text(sum(row.total for row in bound.rows))),
        ("taken ahead by nodes", size_text(bound.lookahead)),
        ("buffered for clients", size_text(bound.gateway)),
        ("packets in flight", f"{size_text(bound.in_flight)} of memory_limit {size_text(plan.deploy.memory_limit)}"),
        ("kept for a replay", size_text(bound.kept)),
        ("total", size_text(bound.total)),
    ]
    return _table([("memory", "at most"), *parts])


def _joins(plan: Plan) -> str:
    rows = [(f"{join.fork} => {join.join}", ", ".join(join.arms)) for join in plan.joins]
    return _table([("fork => join", "arms that must be fed on demand, each by itself"), *rows]) if rows else ""


def _notes(plan: Plan) -> str:
    return "\n".join(f"note: {note}" for note in plan.notes)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell; the first row is the head, the others stand indented under it."""
    cells = [rows[0], *((f"  {row[0]}", *row[1:]) for row in rows[1:])]
    widths = [max(len(row[column]) for row in cells) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def _record(plan: Plan) -> dict[str, Any]:
    bound = plan.bound
    return {
        "ok": True,
        "graph": plan.graph,
        "wiring": plan.wiring,
        "launcher": plan.deploy.launcher,
        "max_requests": plan.deploy.max_requests,
        "stages": {
            stage.name: {
                "uses": stage.uses,
                "config": dict(stage.config),
                "host": stage.host,
                "replicas": stage.spec.replicas,
                "streams": stage.spec.streams,
            }
            for stage in plan.stages.values()
        },
        "edges": [
            {
                "name": row.edge,
                "type": row.type,
                "window": row.window,
                "packet_bytes": row.packet_bytes,
                "bytes": row.total,
            }
            for row in bound.rows
        ],
        "memory": {
            "lookahead": bound.lookahead,
            "gateway": bound.gateway,
            "in_flight": bound.in_flight,
            "limit": plan.deploy.memory_limit,
            "kept": bound.kept,
            "total": bound.total,
        },
        "inputs": {name: {"type": i.type.__qualname__, "optional": i.optional} for name, i in plan.inputs.items()},
        "outputs": {name: plan.edges[number].type.__qualname__ for name, number in plan.outputs.items()},
        "joins": [{"fork": join.fork, "join": join.join, "arms": list(join.arms)} for join in plan.joins],
        "notes": list(plan.notes),
    }


def _fault(fault: Fault) -> dict[str, Any]:
    place = {"file": fault.file, "line": fault.line, "column": fault.column}
    return {"code": str(fault.code), "path": fault.path, "message": fault.message, **place}
