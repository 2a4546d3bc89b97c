"""The Talker: prompt states and thoughts in, codec ids out, one packet a code. Imports no torch.

Its prompt is computed chunk by chunk behind the Thinker. A request whose next thought has not come waits and does not hold
the others; one without room takes nothing and keeps its KV. The code that ends speech is chosen but never sent. A replay
computes the codes that it repeats many a step, as far as thoughts have come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omni_graph.errors import Code, RequestError
from omni_graph.node import UNLIMITED, In, Inbox, Out, Outbox
from omni_graph.payload import Array
from omni_nodes.engine.failures import Failures
from omni_nodes.engine.sampling import SamplingParams
from omni_nodes.payloads import Codes, PromptStates, Thought
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.talker_model import Prediction, TalkerModel

DEFAULT_VOICE = "Chelsie"


@dataclass(slots=True)
class _Request:
    """``unfed`` are the codes that can be fed back: the one said last, or in a replay those that another forced one follows.
    ``asked`` counts the codes that rows were fed for, ``chosen`` those that came of them. ``limit`` is how many may be
    chosen, final once the prompt is ``complete``."""

    voice: str
    limit: int
    prompt: int = 0
    complete: bool = False
    begun: bool = False
    unfed: deque[int] = field(default_factory=deque)
    asked: int = 0
    chosen: int = 0

    @property
    def due(self) -> bool:
        """The next code needs a thought: the one that begins the speech, or the one that goes with the code before."""
        return bool(self.unfed) if self.begun else self.complete


class Talker:
    """The speech model of Qwen2.5-Omni (transformers' Qwen2_5OmniTalkerForConditionalGeneration).

    A checkpoint that cannot speak is loaded all the same, so that its text can be served: each request for speech is
    refused, and told why. ``dtype``, ``max_batch``, ``prefill_chunk``, ``kv_bytes`` and ``prefix_cache`` as for the Thinker.
    ``compile``: its layers by torch.compile (see omni_nodes.compiled), for a GPU.
    """

    preload = PRELOAD

    prompt = In(PromptStates)
    thought = In(Thought)
    codes = Out(Codes)

    @dataclass(frozen=True, slots=True)
    class Params:
        """``voice`` empty is Chelsie, or the checkpoint's first. The vendor's sampling; temperature 0 is greedy."""

        voice: str = ""
        max_tokens: int = 4096
        temperature: float = 0.9
        top_k: int = 40
        top_p: float = 0.8
        repetition_penalty: float = 1.05
        seed: int = 0

        def sampling(self) -> SamplingParams:
            """Raises ValueError where a value is out of range."""
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
        compile: bool = False,
    ) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint

        opened = open_checkpoint(checkpoint)
        self._mute = opened.speech_missing
        self._prefill_chunk = prefill_chunk
        self._requests: dict[str, _Request] = {}
        self._failures = Failures(self.close)
        self._voices: tuple[str, ...] = ()
        if self._mute:
            return
        from omni_nodes.engine.engine import EngineLimits
        from omni_nodes.qwen2_5_omni.talker_model import TalkerModel
        from omni_nodes.qwen2_5_omni.weights import load_speakers, load_talker

        speakers = load_speakers(opened)
        context = opened.settings.talker.decoder.context_length
        limits = EngineLimits(max_batch, prefill_chunk, context, kv_bytes, prefix_cache)
        self._voices = tuple(speakers)
        self._ends = opened.settings.talker.eos
        self._model: TalkerModel = TalkerModel(
            load_talker(opened, device, dtype), opened, speakers, limits, compiled=compile
        )

    def open(self, request: str, params: Params) -> None:
        if self._mute:
            raise RequestError(request, Code.INVALID_INPUT, f"this checkpoint has no speech: {self._mute}")
        try:
            sampling, voice = params.sampling(), self._voice(params.voice)
        except ValueError as error:
            raise RequestError(request, Code.INVALID_INPUT, str(error)) from None
        self._requests[request] = _Request(voice, params.max_tokens)
        self._model.open(request, sampling, voice)

    def force(self, request: str, choices: Sequence[tuple[int, ...]]) -> None:
        self._model.force(request, choices)
        self._requests[request].unfed.extend(code for (code,) in choices[:-1])

    def close(self, request: str) -> None:
        self._failures.forget(request)
        if self._requests.pop(request, None) is not None:
            self._model.close(request)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        self._failures.raise_next()
        if not self._requests:
            return False
        self._take_prompts(inbox, outbox)
        self._take_text(inbox, outbox)
        plan = self._model.plan(dict.fromkeys(self._requests, UNLIMITED))  # what was fed has room for its code
        for grant in plan.grants:
            outbox.working(grant.request)
        for prediction in self._model.run(plan.grants):
            with self._failures.kept():
                for _ in range(prediction.codes):
                    self._choose(prediction, outbox)
        self._failures.raise_next()
        return bool(plan.grants)

    def counters(self) -> dict[str, int]:
        return {} if self._mute else self._model.counters()

    def _voice(self, asked: str) -> str:
        """Raises ValueError for a voice that the checkpoint does not have."""
        if not asked:
            return DEFAULT_VOICE if DEFAULT_VOICE in self._voices else self._voices[0]
        if asked not in self._voices:
            raise ValueError(f"voice is {asked!r}; allowed: {', '.join(self._voices)}")
        return asked

    # ---- what the Thinker sends

    def _take_prompts(self, inbox: Inbox, outbox: Outbox) -> None:
        """Take prompt packets, turn by turn, while they have room and the next step could use them."""
        took = True
        while took:
            wanting = [request for request in inbox.ready(self.prompt) if self._wants_prompt(request, outbox)]
            for request in wanting:
                with self._failures.kept():
                    self._feed_prompt(request, inbox.take(self.prompt, request))
            took = bool(wanting)

    def _wants_prompt(self, request: str, outbox: Outbox) -> bool:
        state = self._requests.get(request)
        if state is None or state.complete or self._model.waiting(request) >= self._prefill_chunk:
            return False
        return outbox.room(self.codes, request) > 0

    def _feed_prompt(self, request: str, packet: PromptStates) -> None:
        state = self._requests[request]
        state.prompt += len(packet.states)
        state.complete = packet.last
        left = self._model.speech_left(state.prompt)
        if left < 1:
            message = f"the prompt has {state.prompt} tokens; allowed with speech: at most {state.prompt + left - 1}"
            raise RequestError(request, Code.INVALID_INPUT, message)
        state.limit = min(state.limit, left)
        self._model.feed_prompt(request, packet)
        if state.complete and self._model.forced(request) > state.limit:
            message = f"{self._model.forced(request)} codes to repeat; allowed: {state.limit}, the limit of the speech"
            raise RequestError(request, Code.DIVERGED, message)

    def _take_text(self, inbox: Inbox, outbox: Outbox) -> None:
        """Give each request that is due a thought, or what stands in its place after the last: one, or in a replay many."""
        self._end_prompts(inbox, outbox)
        took = True
        while took:
            thoughts, ended = set(inbox.ready(self.thought)), set(inbox.drained(self.thought))
            wanting = [r for r in self._requests if (r in thoughts or r in ended) and self._wants_text(r, outbox)]
            for request in wanting:
                with self._failures.kept():
                    self._feed_text(request, inbox.take(self.thought, request) if request in thoughts else None)
            took = bool(wanting)

    def _end_prompts(self, inbox: Inbox, outbox: Outbox) -> None:
        """Requests with nothing to say, or whose prompt broke off."""
        ended, prompted = set(inbox.drained(self.thought)), set(inbox.drained(self.prompt))
        for request, state in list(self._requests.items()):
            with self._failures.kept():
                if request in ended and not state.begun:
                    self._finish(request, outbox)  # the Thinker ended with its first token
                elif request in prompted and not state.complete:
                    raise RequestError(request, Code.NODE_FAILED, "prompt ended before its last packet")

    def _wants_text(self, request: str, outbox: Outbox) -> bool:
        """It is due, and the code that will come of it has room behind those already asked for."""
        state = self._requests[request]
        waiting = state.asked - state.chosen
        return state.due and waiting < min(self._prefill_chunk, outbox.room(self.codes, request))

    def _feed_text(self, request: str, thought: Thought | None) -> None:
        """What the next code needs; ``thought`` is None after the last."""
        state = self._requests[request]
        if state.begun:
            self._model.feed_code(request, state.unfed.popleft(), thought)
        else:
            assert thought is not None, f"{request} begins to speak and has no thought"
            self._model.begin(request, thought)
        state.begun = True
        state.asked += 1

    # ---- speech

    def _choose(self, prediction: Prediction, outbox: Outbox) -> None:
        """Choose a code and say so; send it unless it ends the speech."""
        request = prediction.request
        state = self._requests[request]
        code = self._model.choose(prediction)
        outbox.choose(request, (code,))
        state.chosen += 1
        if code not in self._ends:
            outbox.send(self.codes, request, Codes(Array.of([[code]], "int64"), state.voice))
        if code in self._ends or state.chosen == state.limit:
            self._finish(request, outbox)
        elif not self._model.forced(request):
            state.unfed.append(code)

    def _finish(self, request: str, outbox: Outbox) -> None:
        chosen, left = self._requests[request].chosen, self._model.forced(request)
        if left:
            message = f"the speech ends after {chosen} codes, and {left} to repeat are left"
            raise RequestError(request, Code.DIVERGED, message)
        outbox.end(request)
        self.close(request)
