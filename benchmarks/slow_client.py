"""``slow_client``: one of eight clients reads at a tenth of the others' pace. Do the seven notice, and does memory grow?

Text. An unread answer may hold OUTPUT_BYTES here, so that the slow client's request really pauses. Pairs, with the slow
client and without, in turn; then the same load with a slow client for minutes, and the memory of all processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from statistics import median

import psutil  # type: ignore[import-untyped]

from benchmarks.closed_loop import closed_loop
from benchmarks.command import Options
from benchmarks.idle import deployment_pids
from benchmarks.measure import interleaved
from benchmarks.model_app import STAGE_THREADS, Ask, checkpoint, launch, model_graph, start
from benchmarks.report import OURS, Goal, Of, Report, Series
from omni_graph.runtime.app import App
from omni_graph.spec import Limits

CLIENTS = 8
SLOWER = 10
TOKENS = 120
OUTPUT_BYTES = 1024
SOAK_S, SETTLED_S, SAMPLE_S = 300.0, 60.0, 5.0


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(
        f"{STAGE_THREADS} thread in the Thinker; unread text of a request: {OUTPUT_BYTES} bytes at most"
    )
    rounds, soak_s, settled_s, sample_s = (2, 4.0, 1.0, 0.5) if options.quick else (9, SOAK_S, SETTLED_S, SAMPLE_S)
    graph = model_graph(checkpoint(options.quick))
    with launch(graph, outputs=("text",), limits=Limits(output_bytes=OUTPUT_BYTES)) as app:
        clients = Clients(app)
        found = interleaved(
            rounds, {"slow": lambda: [clients.pace(slow=True)], "fast": lambda: [clients.pace(slow=False)]}
        )
        ours, fast = Series("text", "tokens_per_s", OURS, found["slow"]), found["fast"]
        others = f"the same {CLIENTS - 1}, the eighth as fast"
        report.compare(ours, Series("text", "tokens_per_s", others, fast), Goal(Of.INTERVAL, at_least=0.97))
        paused = Series("text", "slow_requests_paused", OURS, ((float(clients.paused),),))
        report.alone(paused, "rounds in which the slow client's request was seen to pause")
        _memory(report, clients, soak_s, settled_s, sample_s)


class Clients:
    """Eight callers; the eighth may be slow. Every question is another text."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._numbers = count()
        self._interval_s = 0.1  # between two tokens of a fast client; measured by every round
        self.paused = 0

    def pace(self, *, slow: bool) -> float:
        """Tokens a second of the seven, together."""
        asks = [Ask(f"text 60 {next(self._numbers)}", TOKENS) for _ in range(CLIENTS - 1)]
        leave = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            eighth = pool.submit(self._read, leave, SLOWER if slow else 0)
            try:
                load = closed_loop(self._app, asks, CLIENTS - 1)
                if slow:
                    self.paused += self._app.paused > 0
            finally:
                leave.set()
            eighth.result()
        self._interval_s = load.seconds / TOKENS
        return load.tokens_per_s

    def _read(self, leave: threading.Event, slower: int) -> None:
        """Read one answer after another, each packet ``slower`` usual intervals after the last, until told to leave."""
        while not leave.is_set():
            handle = start(self._app, Ask(f"text 60 {next(self._numbers)}", TOKENS))
            while not leave.is_set() and handle.next() is not None:
                leave.wait(slower * self._interval_s)
            handle.cancel()


def _memory(report: Report, clients: Clients, soak_s: float, settled_s: float, sample_s: float) -> None:
    """Resident memory of all processes while the load goes on with a slow client."""
    done = threading.Event()
    began = time.monotonic()
    samples: list[tuple[float, float]] = []

    def watch() -> None:
        while not done.wait(sample_s):
            samples.append((time.monotonic() - began, resident_bytes()))

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch)
        try:
            while time.monotonic() - began < soak_s and not watcher.done():
                clients.pace(slow=True)
        finally:
            done.set()
        watcher.result()
    middle = settled_s + (samples[-1][0] - settled_s) / 2
    late = _median(samples, lambda at: at > middle)
    settled = _median(samples, lambda at: settled_s <= at <= middle)
    case = f"text, {soak_s:.0f} s with a slow client"
    report.keep(Series(case, "resident_bytes_all", OURS, (tuple(size for _, size in samples),)))
    halves = f"the first half after {settled_s:.0f} s"
    ours = Series(case, "resident_bytes", OURS, ((late,),))
    report.compare(ours, Series(case, "resident_bytes", halves, ((settled,),)), Goal(Of.RATIO, at_most=1.02))


def _median(samples: list[tuple[float, float]], within: Callable[[float], bool]) -> float:
    return median(size for at, size in samples if within(at))


def resident_bytes() -> float:
    """Of this process and everything it has started, shared pages counted in each."""
    return float(sum(psutil.Process(pid).memory_info().rss for pid in deployment_pids()))
