"""``throughput``: text, a closed loop of 4c requests with c under way, against transformers one by one and in batches.

One by one is measured once for each prompt length, token by token, and summed over the requests: a shorter answer is the
beginning of a longer one. A batch is c requests in order of arrival, padded; it answers as long as its longest asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks import transformers_side
from benchmarks.closed_loop import ANSWER_TOKENS, PROMPT_TOKENS, Load, closed_loop, text_asks
from benchmarks.command import Options
from benchmarks.measure import percentile
from benchmarks.model_app import STAGE_THREADS, THREADS, Ask, checkpoint, launch, model_graph
from benchmarks.peer import Peer
from benchmarks.report import OURS, Goal, Of, Report, Series

IN_TURN, BATCHES = "transformers, one after another", "transformers, padded batches"
CALLERS = (1, 2, 4, 8, 16, 32)
QUICK_CALLERS = (1, 2)
BATCHED = (8, 16)
COMPARED = 8
SETTINGS = ("nodes.thinker.config.max_batch=32",)


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(
        f"{STAGE_THREADS} thread in the Thinker, {THREADS} in transformers; greedy; each prompt another text"
    )
    report.notes.append("our prefix cache is off")
    folder = checkpoint(options.quick)
    callers, rounds = (QUICK_CALLERS, 1) if options.quick else (CALLERS, 2)
    with Peer(transformers_side.MAKER, transformers_side.ENVIRONMENT, folder=str(folder)) as reference:
        in_turn = token_times(reference)
        batched = {c: batches(reference, text_asks(4 * c), c) for c in callers if c in BATCHED or options.quick}
    with launch(model_graph(folder, settings=SETTINGS), outputs=("text",)) as app:
        closed_loop(app, text_asks(callers[-1]), callers[-1])
        loads = {c: [closed_loop(app, text_asks(4 * c), c) for _ in range(rounds)] for c in callers}
    for c in callers:
        _rows(
            report, c, loads[c], sum(in_turn[_prompt(one)][one.tokens - 1] for one in text_asks(4 * c)), batched.get(c)
        )
    best = max(callers, key=lambda c: median(load.tokens_per_s for load in loads[c]))
    most = Series(f"c = {callers[-1]}", "tokens_per_s", OURS, _tokens(loads[callers[-1]]))
    top = Series(f"c = {callers[-1]}", "tokens_per_s", f"the best, c = {best}", _tokens(loads[best]))
    report.compare(most, top, Goal(Of.RATIO, at_least=0.9))


def token_times(reference: Peer) -> dict[int, list[float]]:
    """{tokens of the prompt: seconds until each token of its answer} in transformers."""
    longest = ANSWER_TOKENS[1]
    return {n: reference("token_times", prompt=f"text {n}", tokens=longest) for n in PROMPT_TOKENS}


def batches(reference: Peer, asks: Sequence[Ask], size: int) -> float:
    """Seconds for ``asks`` in padded batches of ``size``."""
    total = 0.0
    for start in range(0, len(asks), size):
        batch = asks[start : start + size]
        prompts, longest = [one.prompt for one in batch], max(one.tokens for one in batch)
        total += reference("batch", prompts=prompts, tokens=longest, codes=max(one.codes for one in batch))
    return total


def _prompt(one: Ask) -> int:
    return int(one.prompt.split()[1])


def _tokens(loads: Sequence[Load]) -> tuple[tuple[float, ...], ...]:
    return tuple((one.tokens_per_s,) for one in loads)


def _rows(report: Report, c: int, loads: Sequence[Load], in_turn_s: float, batched_s: float | None) -> None:
    case, tokens = f"c = {c}", sum(one.tokens for one in text_asks(4 * c))
    ours = Series(case, "tokens_per_s", OURS, _tokens(loads))
    goals = (Goal(Of.RATIO, at_least=6.0), Goal(Of.RATIO, at_least=2.0)) if c == COMPARED else (None, None)
    report.compare(ours, Series(case, "tokens_per_s", f"{IN_TURN}, once", ((tokens / in_turn_s,),)), goals[0])
    if batched_s is not None:
        report.compare(
            ours, Series(case, "tokens_per_s", f"{BATCHES} of {c}, once", ((tokens / batched_s,),)), goals[1]
        )
    report.alone(
        Series(case, "requests_per_s", OURS, tuple((len(one.heard) / one.seconds,) for one in loads)),
        "answers a second",
    )
    totals = Series(case, "total_s", OURS, tuple(tuple(one.total_s for one in load.heard) for load in loads))
    report.alone(totals, "an answer, p50")
    report.alone(totals, "an answer, p99", statistic=percentile(0.99))
