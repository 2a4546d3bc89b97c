"""``hop``: one packet from one node's send to another's take, between two processes, against raw pyzmq and Ray.

Also 64 requests over one link against one, and what an idle deployment uses. All sides of a size run in turn, round after
round, one packet (or one group of them, above 1 MiB) under way at a time.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import ray_hop
from benchmarks.chain import launch_chain
from benchmarks.command import Options
from benchmarks.idle import busy_share, deployment_pids
from benchmarks.measure import Side, interleaved, percentile
from benchmarks.our_hop import OurHop, pieces_of
from benchmarks.raw_hop import RawHop
from benchmarks.report import OURS, Goal, Of, Report, Series

METRIC = "one_way_s"
RAW, RAW_WHOLE = "raw pyzmq PUSH/PULL", "raw pyzmq PUSH/PULL, one message"
ACTOR, COMPILED = "Ray actor call", "Ray compiled graph"
KIB, MIB = 1 << 10, 1 << 20
IDLE_CHAIN = 8


@dataclass(frozen=True, slots=True)
class Size:
    """``bytes`` of payload, sent ``groups`` times a round, ``calls`` times a round where Ray does it."""

    name: str
    bytes: int
    groups: int
    calls: int


SIZES = (
    Size("64 B", 64, 400, 60),
    Size("4 KiB", 4 * KIB, 400, 60),
    Size("64 KiB", 64 * KIB, 400, 60),
    Size("1 MiB", MIB, 150, 40),
    Size("4 MiB", 4 * MIB, 60, 25),
    Size("16 MiB", 16 * MIB, 20, 12),
)
QUICK_SIZES = (Size("64 B", 64, 5, 1), Size("2 MiB", 2 * MIB, 2, 1))


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(
        "ours: node send to node take in two replica processes over ipc; Worker, credit, codec, Timings on"
    )
    if options.streams is None:
        _sizes(report, quick=options.quick)
    _streams(report, options.streams or (4 if options.quick else 64), quick=options.quick)
    if options.streams is None:
        _idle(report, 0.5 if options.quick else 20.0)


# ---- sizes


def _sizes(report: Report, *, quick: bool) -> None:
    with ExitStack() as stack:
        raw = stack.enter_context(RawHop())
        ray = stack.enter_context(ray_hop.RayHop()) if ray_hop.installed() and not quick else None
        missing = "not measured in a quick run" if quick else "not installed"
        for size in QUICK_SIZES if quick else SIZES:
            with OurHop(pieces_of(size.bytes)) as ours:
                times = interleaved(2 if quick else 9, _sides(size, ours, raw, ray))
            _rows(report, size, {of: Series(size.name, METRIC, of, rounds) for of, rounds in times.items()}, missing)
        if ray is None:
            report.notes.append(f"{ACTOR}, {COMPILED}: {missing}")
        else:
            share = Series("idle", "cores", COMPILED, ((ray.idle_share(5.0),),))
            report.keep(share)
            report.notes.append(f"an idle {COMPILED} actor uses {share.rounds[0][0]:.2f} of a core")


def _sides(size: Size, ours: OurHop, raw: RawHop, ray: ray_hop.RayHop | None) -> dict[str, Side]:
    pieces = pieces_of(size.bytes)
    sides: dict[str, Side] = {
        OURS: lambda: ours(size.bytes, size.groups),
        RAW: lambda: raw(size.bytes, size.groups, pieces),
    }
    if pieces > 1:
        sides[RAW_WHOLE] = lambda: raw(size.bytes, size.groups)
    if ray is not None:
        sides[ACTOR] = lambda: ray.call(size.bytes, size.calls)
        sides[COMPILED] = lambda: ray.compiled(size.bytes, size.calls)
    return sides


def _rows(report: Report, size: Size, series: dict[str, Series], missing: str) -> None:
    small = size.bytes <= 64 * KIB
    of_raw = Goal(Of.RATIO, at_most=2.0 if small else 1.3)
    of_actor = Goal(Of.RATIO, at_most=1 / 3) if small else None
    for name, goal in ((RAW, of_raw), (RAW_WHOLE, of_raw), (ACTOR, of_actor), (COMPILED, None)):
        if name in series:
            report.compare(series[OURS], series[name], goal)
        elif name != RAW_WHOLE:
            report.alone(series[OURS], f"{name}: {missing}", goal)


# ---- many streams


def _streams(report: Report, streams: int, *, quick: bool) -> None:
    """All at once, each with one packet of 64 bytes under way: how evenly are they served?"""
    groups = 5 if quick else 100
    with OurHop(1, streams) as many, OurHop() as one:
        times = interleaved(2 if quick else 9, {"many": lambda: many(64, groups), "one": lambda: one(64, groups * 4)})
    case = f"{streams} streams"
    ours = Series(case, METRIC, OURS, times["many"])
    slowest, middle = percentile(0.99), percentile(0.5)
    report.keep(ours)
    tail = Series(case, "p99_one_way_s", OURS, tuple((slowest(one),) for one in ours.rounds))
    usual = Series(case, "p99_one_way_s", f"p50 of the same {streams}", tuple((middle(one),) for one in ours.rounds))
    report.compare(tail, usual, Goal(Of.RATIO, at_most=3.0))
    report.compare(ours, Series(case, METRIC, "1 stream", times["one"]))


# ---- nothing to do


def _idle(report: Report, seconds: float) -> None:
    with launch_chain(IDLE_CHAIN, "processes"):
        busy_share(deployment_pids(), seconds / 4)  # what starting left to do is done
        share = busy_share(deployment_pids(), seconds)
    idle = Series(f"idle, {IDLE_CHAIN} replicas", "cores", OURS, ((share,),))
    report.alone(idle, "of one core, Gateway included", Goal(Of.OURS, at_most=0.01))
