"""The Thinker: prompt segments in; text, prompt states and thoughts out. Imports no torch.

A request without room on an output that is read takes nothing, computes nothing, and keeps its KV; the others go on.
The last token of a reply is never fed back. What nobody reads is not computed. A replay computes the tokens that it repeats
many a step, like a prompt, and sends the same packets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omni_graph.errors import Code, RequestError
from omni_graph.node import UNLIMITED, In, Inbox, Out, Outbox
from omni_graph.payload import TextDelta
from omni_nodes.engine.failures import Failures
from omni_nodes.engine.sampling import SamplingParams
from omni_nodes.payloads import PromptSegment, PromptStates, Thought
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.reply import Reply
    from omni_nodes.qwen2_5_omni.thinker_model import Advance


@dataclass(slots=True)
class _Request:
    """``prompt`` counts the prompt's tokens by modality; ``reply`` is there once the prompt is complete."""

    params: Thinker.Params
    prompt: Counter[str] = field(default_factory=Counter)
    reply: Reply | None = None


class Thinker:
    """The language model of Qwen2.5-Omni (transformers' Qwen2_5OmniThinkerTextModel and its head).

    ``max_batch`` requests and ``prefill_chunk`` prompt tokens share a step; ``kv_bytes`` bounds keys and values (None: room
    for ``max_batch`` requests of 2,048 tokens, and for one whole context). ``prefix_cache``: prompts that begin as earlier
    ones did, replies included, are computed from where they differ. ``dtype`` auto: float32 on a CPU, bfloat16 elsewhere.
    """

    preload = PRELOAD

    prompt = In(PromptSegment)
    text = Out(TextDelta)
    states = Out(PromptStates)
    thought = Out(Thought)

    @dataclass(frozen=True, slots=True)
    class Params:
        """Temperature 0 is greedy, top_k 0 and top_p 1 are off; ``max_tokens`` is cut to what the context leaves. ``stop``
        strings end the text before them; ``stop_token_ids`` add to the checkpoint's own ends."""

        max_tokens: int = 1024
        temperature: float = 0.0
        top_p: float = 1.0
        top_k: int = 0
        repetition_penalty: float = 1.0
        stop: tuple[str, ...] = ()
        stop_token_ids: tuple[int, ...] = ()
        seed: int = 0

        def sampling(self) -> SamplingParams:
            """Raises ValueError where a value is out of range."""
            if "" in self.stop:
                raise ValueError(f"stop is {self.stop!r}; allowed: strings that are not empty")
            return SamplingParams(
                self.max_tokens, self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.seed
            )

    def __init__(
        self,
        checkpoint: str,
        dtype: str = "auto",
        max_batch: int = 16,
        prefill_chunk: int = 256,
        device: str = "auto",
        kv_bytes: int | None = None,
        prefix_cache: bool = True,
    ) -> None:
        from omni_nodes.engine.engine import EngineLimits
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.detokenizer import Vocabulary
        from omni_nodes.qwen2_5_omni.thinker_model import ThinkerModel
        from omni_nodes.qwen2_5_omni.weights import load_thinker

        opened = open_checkpoint(checkpoint)
        limits = EngineLimits(max_batch, prefill_chunk, opened.settings.thinker.context_length, kv_bytes, prefix_cache)
        self._model = ThinkerModel(load_thinker(opened, device, dtype), limits)
        self._vocabulary = Vocabulary.open(opened.folder)
        self._ends = opened.settings.thinker_eos
        self._prefill_chunk = prefill_chunk
        self._requests: dict[str, _Request] = {}
        self._failures = Failures(self.close)

    def open(self, request: str, params: Params) -> None:
        try:
            sampling = params.sampling()
        except ValueError as error:
            raise RequestError(request, Code.INVALID_INPUT, str(error)) from None
        self._requests[request] = _Request(params)
        self._model.open(request, sampling)

    def force(self, request: str, choices: Sequence[tuple[int, ...]]) -> None:
        self._model.force(request, choices)

    def close(self, request: str) -> None:
        self._failures.forget(request)
        self._requests.pop(request, None)
        self._model.close(request)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        self._failures.raise_next()
        self._take_prompts(inbox, outbox)
        plan = self._model.plan(self._room(outbox))
        for grant in plan.grants:
            outbox.working(grant.request)
        for advance in self._model.run(plan.grants):
            with self._failures.kept():
                self._deliver(advance, outbox)
        self._failures.raise_next()
        return bool(plan.grants)

    def counters(self) -> dict[str, int]:
        return self._model.counters()

    # ---- the prompt

    def _take_prompts(self, inbox: Inbox, outbox: Outbox) -> None:
        """Take segments, turn by turn, while they have room and the next step could use them."""
        took = True
        while took:
            wanting = [request for request in inbox.ready(self.prompt) if self._wants_prompt(request, outbox)]
            for request in wanting:
                with self._failures.kept():
                    self._feed(request, inbox.take(self.prompt, request))
            took = bool(wanting)
        for request in inbox.drained(self.prompt):
            if request in self._requests and self._requests[request].reply is None:
                with self._failures.kept():
                    raise RequestError(request, Code.NODE_FAILED, "prompt ended before its last segment")

    def _wants_prompt(self, request: str, outbox: Outbox) -> bool:
        state = self._requests.get(request)
        if state is None or state.reply is not None or self._model.waiting(request) >= self._prefill_chunk:
            return False
        return all(outbox.room(port, request) > 0 for port in (self.states, self.text, self.thought))

    def _feed(self, request: str, segment: PromptSegment) -> None:
        state = self._requests[request]
        state.prompt[segment.modality] += len(segment.token_ids)
        fault = self._fault(state, segment)
        if fault:
            raise RequestError(request, Code.INVALID_INPUT, fault)
        self._model.feed_prompt(request, segment)
        if segment.last:
            state.reply = self._new_reply(request, state)

    def _fault(self, state: _Request, segment: PromptSegment) -> str:
        """What is wrong with the prompt so far; empty when it may be fed."""
        total, most = state.prompt.total(), self._model.capacity - 1
        if total > most:
            return f"the prompt has {total} tokens{'' if segment.last else ' or more'}; allowed: at most {most}"
        if segment.last and not len(segment.token_ids):
            return "the prompt's last segment has no token; allowed: 1 or more"
        ids, size = segment.token_ids.values, self._model.vocabulary
        unknown = ids[(ids < 0) | (ids >= size)]
        return f"the prompt has token id {unknown[0]}; allowed: 0 to {size - 1}" if len(unknown) else ""

    def _new_reply(self, request: str, state: _Request) -> Reply:
        from omni_nodes.qwen2_5_omni.detokenizer import Detokenizer
        from omni_nodes.qwen2_5_omni.reply import Reply, StopRule

        limit = min(state.params.max_tokens, self._model.capacity - state.prompt.total())
        if self._model.forced(request) > limit:
            message = f"{self._model.forced(request)} tokens to repeat; allowed: {limit}, the reply's limit"
            raise RequestError(request, Code.DIVERGED, message)
        rule = StopRule(self._ends | frozenset(state.params.stop_token_ids), limit)
        return Reply(Detokenizer(self._vocabulary, state.params.stop), rule)

    # ---- the reply

    def _room(self, outbox: Outbox) -> dict[str, int]:
        """How many rows of each request with something to compute may be sent now; none that is paused is in it."""
        waiting = ((request, state) for request, state in self._requests.items() if self._model.waiting(request))
        return {
            request: self._rows(request, state, outbox)
            for request, state in waiting
            if self._goes_on(request, state, outbox)
        }

    def _goes_on(self, request: str, state: _Request, outbox: Outbox) -> bool:
        """A reply row makes a delta and a thought; prompt rows make packets of states, and the first delta at their end."""
        other = self.thought if state.reply is not None and state.reply.tokens else self.states
        return outbox.room(self.text, request) > 0 and outbox.room(other, request) > 0

    def _rows(self, request: str, state: _Request, outbox: Outbox) -> int:
        """Where many reply rows are repeated at once, each makes its packets all the same."""
        if state.reply is not None and state.reply.tokens:
            return min(outbox.room(self.text, request), outbox.room(self.thought, request))
        if not outbox.routed(self.states, request):
            return UNLIMITED
        return self._model.prompt_rows_within(request, outbox.room(self.states, request))

    def _deliver(self, advance: Advance, outbox: Outbox) -> None:
        """Send what a request's step gave, row by row: the thought of the row, then the token that comes after it."""
        request = advance.request
        if outbox.routed(self.states, request):
            for packet in self._model.prompt_states(advance):
                outbox.send(self.states, request, packet)
        for row in advance.predicting:
            if outbox.routed(self.thought, request):
                thought = self._model.thought(advance, row)
                if thought is not None:
                    outbox.send(self.thought, request, thought)
            self._choose(advance, outbox)

    def _choose(self, advance: Advance, outbox: Outbox) -> None:
        """Choose the next token, and say so before anything depends on it."""
        request = advance.request
        state = self._requests[request]
        assert state.reply is not None
        token = self._model.choose(advance)
        outbox.choose(request, (token,))
        delta = state.reply.add(token, state.prompt)
        if delta is not None and outbox.routed(self.text, request):
            outbox.send(self.text, request, delta)
        if state.reply.finish_reason:
            self._finish(request, state.reply, outbox)
        else:
            self._model.feed_reply(request)

    def _finish(self, request: str, reply: Reply, outbox: Outbox) -> None:
        left = self._model.forced(request)
        if left:
            message = f"token {reply.tokens - 1} ends the reply ({reply.finish_reason}), and {left} to repeat are left"
            raise RequestError(request, Code.DIVERGED, message)
        outbox.end(request)
        self.close(request)
