"""``overhead``: what a node costs that does nothing. A chain of N pass-through nodes, by threads and by processes.

Latency: one packet through the whole chain at a time; what a node adds is the slope between a chain of one and of N, so the
way in and out does not count. Throughput: many packets at once. Beside both, the same functions called in a loop, and a raw
ipc hop, measured in the same rounds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from benchmarks.chain import launch_chain
from benchmarks.command import Options
from benchmarks.measure import Samples, interleaved
from benchmarks.raw_hop import RawHop
from benchmarks.report import OURS, Goal, Of, Report, Series
from omni_graph.payload import TextDelta
from omni_graph.runtime.app import App, Handle
from omni_nodes.basic.passthrough import Passthrough

LENGTHS = (1, 2, 4, 8, 16, 32)
LOOP, RAW = "the functions in a loop", "raw ipc hop"
THREAD_GOAL_S = 50e-6
REPLY_S = 60.0
RAW_BYTES = 64
PACKET = TextDelta("word", (1,))


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append("added_s_per_node: (latency of a chain of N - of a chain of 1) / (N - 1), in the same round")
    report.notes.append("threads share an interpreter lock: the goal holds while no node computes")
    lengths = (1, 2) if options.quick else LENGTHS
    with RawHop() as raw:
        for launcher in ("processes", "threads"):
            with launch_chain(1, launcher) as single:
                for length in lengths:
                    _length(report, raw, single, launcher, length, quick=options.quick)


def _length(report: Report, raw: RawHop, single: App, launcher: str, length: int, *, quick: bool) -> None:
    rounds, packets, many = (2, 5, 20) if quick else (7, 100, 1000)
    case = f"{launcher}, N={length}"
    with ExitStack() as stack:
        app = single if length == 1 else stack.enter_context(launch_chain(length, launcher))
        found = interleaved(
            rounds,
            {
                "latency": lambda: latencies(app, packets),
                "single": lambda: latencies(single, packets),
                "raw": lambda: raw(RAW_BYTES, packets),
                "rate": lambda: [rate(app, many)],
                "loop": lambda: loop(length, many),
            },
        )
    looped = Series(case, "packets_per_s", LOOP, _inverse(found["loop"]))
    report.compare(Series(case, "packets_per_s", OURS, found["rate"]), looped)
    whole = Series(case, "latency_s", OURS, found["latency"])
    report.compare(whole, Series(case, "latency_s", LOOP, found["loop"]))
    if length > 1:
        _per_node(report, case, launcher, found, length)


def _per_node(report: Report, case: str, launcher: str, found: dict[str, tuple[Samples, ...]], length: int) -> None:
    """Medians of a round stand for it: a slope has no single samples of its own."""
    pairs = zip(found["latency"], found["single"], strict=True)
    slopes = tuple(((median(chain) - median(one)) / (length - 1),) for chain, one in pairs)
    report.keep(Series(case, "latency_s", "a chain of 1", found["single"]))
    ours = Series(case, "added_s_per_node", OURS, slopes)
    goal = Goal(Of.RATIO, at_most=2.0) if launcher == "processes" else Goal(Of.OURS, at_most=THREAD_GOAL_S)
    report.compare(ours, Series(case, "added_s_per_node", RAW, found["raw"]), goal)


def latencies(app: App, packets: int) -> list[float]:
    """Seconds from writing a packet to having it back, one at a time."""
    handle = app.open(outputs=["out"])
    try:
        return [_there_and_back(handle) for _ in range(packets)]
    finally:
        handle.cancel()


def _there_and_back(handle: Handle) -> float:
    began = time.perf_counter()
    handle.write("text", PACKET)
    handle.next(REPLY_S)
    return time.perf_counter() - began


def rate(app: App, packets: int) -> float:
    """Packets a second of one request with ``packets`` of them, its opening and its end included."""
    began = time.perf_counter()
    seen = sum(1 for _ in app.start({"text": [PACKET] * packets}))
    assert seen == packets, f"{seen} of {packets} packets came out"
    return packets / (time.perf_counter() - began)


def loop(length: int, packets: int) -> Sequence[float]:
    """Seconds a packet through ``length`` nodes' own functions, called one after another."""
    nodes = [Passthrough() for _ in range(length)]
    began = time.perf_counter()
    for _ in range(packets):
        batch = [PACKET]
        for node in nodes:
            batch = node.forward(batch)
    return [(time.perf_counter() - began) / packets]


def _inverse(rounds: tuple[Samples, ...]) -> tuple[Samples, ...]:
    return tuple(tuple(1 / sample for sample in samples) for samples in rounds)
