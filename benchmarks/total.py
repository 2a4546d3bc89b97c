"""``total``: from asking to the last packet, in every codec context, against transformers on the same answer."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import transformers_side
from benchmarks.command import Options
from benchmarks.model_app import STAGE_THREADS, THREADS, Ask, ask, checkpoint, launch, model_graph, speech
from benchmarks.peer import Peer
from benchmarks.report import OURS, Goal, Of, Report, Series

REFERENCE = "transformers generate"
PROMPT = "text 60"


@dataclass(frozen=True, slots=True)
class Case:
    """An answer of ``seconds`` in ``codec_context``, measured ``rounds`` times."""

    codec_context: str
    seconds: float
    goal: float
    rounds: int


CASES = (
    Case("low_latency", 5, 1.0, 5),
    Case("low_latency", 20, 0.4, 3),
    Case("balanced", 20, 0.7, 2),
    Case("exact", 20, 0.5, 2),
)
QUICK_CASES = (Case("low_latency", 1, 1.0, 1), Case("exact", 1, 0.5, 1))


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(
        f"by processes; {STAGE_THREADS} thread a stage, {THREADS} in {REFERENCE}; greedy; {PROMPT} tokens"
    )
    cases = QUICK_CASES if options.quick else CASES
    folder = checkpoint(options.quick)
    with Peer(transformers_side.MAKER, transformers_side.ENVIRONMENT, folder=str(folder)) as reference:
        lengths = sorted({case.seconds for case in cases})
        theirs = {length: reference("answer", **_words(speech(PROMPT, length))) for length in lengths}
    for context in dict.fromkeys(case.codec_context for case in cases):
        with launch(model_graph(folder, context)) as app:
            ask(app, speech(PROMPT, 1))
            for case in (one for one in cases if one.codec_context == context):
                heard = [ask(app, speech(PROMPT, case.seconds)) for _ in range(case.rounds)]
                same = all(list(one.token_ids) == theirs[case.seconds]["token_ids"] for one in heard)
                name = f"{context}, {case.seconds:g} s"
                report.notes.append(f"{name}: its text is {'' if same else 'NOT '}transformers' token for token")
                ours = Series(name, "total_s", OURS, tuple((one.total_s,) for one in heard))
                once = Series(name, "total_s", f"{REFERENCE}, once", ((theirs[case.seconds]["seconds"],),))
                report.compare(ours, once, Goal(Of.RATIO, at_most=case.goal))


def _words(request: Ask) -> dict[str, str | int]:
    return {"prompt": request.prompt, "tokens": request.tokens, "codes": request.codes}
