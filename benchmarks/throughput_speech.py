"""``throughput_speech``: spoken answers of 5 and of 10 seconds, a closed loop with c under way, against transformers.

All answers are of one length, so one by one is measured once and multiplied. 2c requests, not 4c: 12 minutes on two cores
would not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import transformers_side
from benchmarks.closed_loop import Load, closed_loop
from benchmarks.command import Options
from benchmarks.measure import percentile
from benchmarks.model_app import STAGE_THREADS, THREADS, Ask, checkpoint, launch, model_graph, speech
from benchmarks.peer import Peer
from benchmarks.report import OURS, Goal, Of, Report, Series

IN_TURN, BATCH = "transformers, one after another, once", "transformers, one padded batch of 8, once"
REQUESTS_A_CALLER = 2
COMPARED = 8


@dataclass(frozen=True, slots=True)
class Case:
    """Answers of ``seconds`` with each number of ``callers``; ``goal`` holds for COMPARED callers."""

    seconds: float
    callers: tuple[int, ...]
    goal: float


CASES = (Case(5, (1, 4, 8), 1.3), Case(10, (8,), 2.0))
QUICK_CASES = (Case(1, (1, 2), 1.3),)


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(
        f"{STAGE_THREADS} thread a stage, {THREADS} in transformers; greedy; low_latency; our caches are off"
    )
    report.notes.append(f"{REQUESTS_A_CALLER} requests a caller, and one round: 4 would take more than 12 minutes")
    folder, cases = checkpoint(options.quick), QUICK_CASES if options.quick else CASES
    with Peer(transformers_side.MAKER, transformers_side.ENVIRONMENT, folder=str(folder)) as reference:
        alone = {case: _alone(reference, case) for case in cases}
        together = _together(reference, cases[0])
    with launch(model_graph(folder)) as app:
        closed_loop(app, _asks(cases[0], 2), 2)
        for case in cases:
            for callers in case.callers:
                load = closed_loop(app, _asks(case, REQUESTS_A_CALLER * callers), callers)
                _rows(report, case, callers, load, alone[case], together if case is cases[0] else None)


def _asks(case: Case, count: int) -> list[Ask]:
    return [speech(f"text 60 {which}", case.seconds) for which in range(count)]


def _alone(reference: Peer, case: Case) -> float:
    """Seconds of one answer in transformers."""
    one = speech("text 60", case.seconds)
    return float(reference("answer", prompt=one.prompt, tokens=one.tokens, codes=one.codes)["seconds"])


def _together(reference: Peer, case: Case) -> float:
    """Seconds of COMPARED answers in one batch in transformers."""
    asks = _asks(case, COMPARED)
    prompts = [one.prompt for one in asks]
    return float(reference("batch", prompts=prompts, tokens=asks[0].tokens, codes=asks[0].codes))


def _rows(report: Report, case: Case, callers: int, load: Load, alone_s: float, together_s: float | None) -> None:
    name = f"{case.seconds:g} s, c = {callers}"
    ours = Series(name, "sound_s_per_s", OURS, ((load.sound_per_s,),))
    goal = Goal(Of.RATIO, at_least=case.goal) if callers == COMPARED else None
    report.compare(ours, Series(name, "sound_s_per_s", IN_TURN, ((case.seconds / alone_s,),)), goal)
    if callers == COMPARED and together_s is not None:
        report.compare(ours, Series(name, "sound_s_per_s", BATCH, ((COMPARED * case.seconds / together_s,),)))
    _alone_rows(report, name, load)


def _alone_rows(report: Report, name: str, load: Load) -> None:
    def series(metric: str, values: Sequence[float]) -> Series:
        return Series(name, metric, OURS, (tuple(values),))

    report.alone(series("requests_per_s", [len(load.heard) / load.seconds]), "answers a second")
    report.alone(series("real_time_factor", [1 / load.sound_per_s]), "seconds a second of speech takes, all together")
    firsts = series("first_audio_s", [one.first_audio_s for one in load.heard])
    report.alone(firsts, "p50")
    report.alone(firsts, "p99", statistic=percentile(0.99))
