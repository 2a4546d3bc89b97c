"""``first_audio``: from asking to the first packet of sound, against transformers, and against the same nodes in sequence.

The first packet counts with the pace at which a listener who begins with it never runs dry; beside it stands the moment to
begin at the machine's own pace (player.py). transformers gives its first sound with its last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import floor_side, player, transformers_side
from benchmarks.command import Options
from benchmarks.model_app import STAGE_THREADS, THREADS, Ask, Heard, ask, checkpoint, launch, model_graph, speech
from benchmarks.peer import Peer
from benchmarks.report import OURS, Goal, Of, Report, Series
from omni_graph.runtime.app import App
from omni_graph.runtime.child import thread_environment

REFERENCE, FLOOR = "transformers generate", "the same nodes, called in sequence"
FIRST_TOKENS = FIRST_CODES = 24  # what the first window of low_latency waits for


@dataclass(frozen=True, slots=True)
class Case:
    """An answer of ``seconds`` to ``prompt``; ``goal``: of its end in transformers, the share at which ours begins."""

    name: str
    prompt: str
    seconds: float
    goal: float

    @property
    def whole(self) -> Ask:
        return speech(self.prompt, self.seconds)

    @property
    def short(self) -> Ask:
        """The answer that ends where the first sound can begin."""
        return Ask(self.prompt, FIRST_TOKENS, FIRST_CODES)


CASES = (
    Case("text, 20 s", "text 60", 20, 0.02),
    Case("audio, 5 s", "audio 5", 5, 0.15),
    Case("image, 5 s", "image", 5, 0.15),
    Case("video, 5 s", "video", 5, 0.15),
)
QUICK_CASES = (Case("text, 1 s", "text 60", 1, 0.15), Case("audio, 1 s", "audio 1", 1, 0.15))


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(f"by processes unless said; {STAGE_THREADS} thread a stage, {THREADS} in {REFERENCE}; greedy")
    report.notes.append(
        "first_audio_s: the first packet; steady_first_audio_s: where a listener at own_pace must begin"
    )
    folder, cases = checkpoint(options.quick), QUICK_CASES if options.quick else CASES
    with Peer(transformers_side.MAKER, transformers_side.ENVIRONMENT, folder=str(folder)) as reference:
        ends = {case: reference("answer", **_words(case.whole))["seconds"] for case in cases}
    with (
        Peer(floor_side.MAKER, thread_environment(STAGE_THREADS), folder=str(folder)) as floor,
        launch(model_graph(folder)) as app,
    ):
        for case in cases:
            _case(report, case, app, floor, ends[case], rounds=1 if options.quick else 3)
    with launch(model_graph(folder), "threads") as app:
        _in_one_process(report, cases[-1], app, ends[cases[-1]])


def _words(request: Ask) -> dict[str, str | int]:
    return {"prompt": request.prompt, "tokens": request.tokens, "codes": request.codes}


def _case(report: Report, case: Case, app: App, floor: Peer, end_s: float, rounds: int) -> None:
    ask(app, case.short)
    floor("first_audio", **_words(case.short))
    whole, short, floors = [], [], []
    for _ in range(rounds):
        whole.append(ask(app, case.whole))
        short.append(ask(app, case.short))
        floors.append((float(floor("first_audio", **_words(case.short))),))
    _against_transformers(report, case, whole, end_s)
    least = Series(case.name, "first_audio_s", FLOOR, tuple(floors))
    capped = f"{case.name}, reply capped at {FIRST_TOKENS} tokens"
    firsts = tuple((one.first_audio_s,) for one in short)
    report.compare(Series(capped, "first_audio_s", OURS, firsts), least, Goal(Of.RATIO, at_most=1.15))
    report.compare(_series(case, "first_audio_s", whole, lambda one: one.first_audio_s), least)


def _against_transformers(report: Report, case: Case, heard: list[Heard], end_s: float) -> None:
    reference = Series(case.name, "first_audio_s", f"{REFERENCE}, once", ((end_s,),))
    goal = Goal(Of.RATIO, at_most=case.goal)
    report.compare(_series(case, "first_audio_s", heard, lambda one: one.first_audio_s), reference, goal)
    report.compare(_series(case, "steady_first_audio_s", heard, _steady), reference, goal)
    own = _series(case, "pace", heard, lambda one: player.own_pace(one.sound))
    slowest = _series(case, "pace", heard, lambda one: player.slowest_pace(one.sound))
    report.compare(slowest, Series(case.name, "pace", "own pace, first to last packet", own.rounds))
    dry = _series(case, "underruns", heard, lambda one: player.underruns(one.sound, player.own_pace(one.sound)))
    report.alone(dry, "at own pace, beginning with the first packet")


def _steady(heard: Heard) -> float:
    return player.start_at(heard.sound, player.own_pace(heard.sound))


def _series(case: Case, metric: str, heard: list[Heard], value: Callable[[Heard], float]) -> Series:
    return Series(case.name, metric, OURS, tuple((float(value(one)),) for one in heard))


def _in_one_process(report: Report, case: Case, app: App, end_s: float) -> None:
    ask(app, case.short)
    name = f"{case.name}, launcher threads"
    ours = Series(name, "first_audio_s", OURS, ((ask(app, case.whole).first_audio_s,),))
    report.compare(ours, Series(name, "first_audio_s", f"{REFERENCE}, once", ((end_s,),)))
