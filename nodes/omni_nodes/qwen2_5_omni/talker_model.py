"""The Talker's tensors: prompt states, thoughts and codes to decoder rows, hidden states to the next code.

Never looks at a port. Formulas are those of transformers' Qwen2_5OmniTalkerForConditionalGeneration, with the two codec
embeddings on the last prompt rows that 5.23 leaves out when there is no padding (the model was trained with them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from omni_graph.errors import Code, RequestError
from omni_nodes.compiled import MANY, warm_up
from omni_nodes.engine.engine import Computed, Engine, EngineLimits
from omni_nodes.engine.prefix import state_identity
from omni_nodes.engine.sampler import Sampler, draw
from omni_nodes.engine.sampling import SamplingParams
from omni_nodes.engine.scheduler import Grant, Plan
from omni_nodes.engine.sequence import Rows
from omni_nodes.linears import pack_linears
from omni_nodes.payloads import PromptStates, Thought
from omni_nodes.qwen2_5_omni.checkpoint import Checkpoint
from omni_nodes.qwen2_5_omni.weights import Speaker, TalkerModules, embedding_rows
from omni_nodes.tensors import to_tensor

NODE = "talker"  # names this node's draws in the sampling noise
BEGINNING = 2  # rows after the prompt: the speaker's first, and the first thought


@dataclass(slots=True)
class _Speech:
    """One request: what was fed, and what the next draw depends on. ``spoken`` counts the codes that were fed back;
    ``text_ended``: the mark of the text's end was fed."""

    sampler: Sampler
    speaker: str
    prompt: int = 0
    next_position: int = 0
    begun: bool = False
    spoken: int = 0
    text_ended: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """``codes`` are to be chosen for a request; ``drawn`` is the last of them, None where it is forced like those before
    it."""

    request: str
    codes: int
    drawn: int | None


class TalkerModel:
    """The Talker's decoder, projection and head behind an engine. E is its embedding size, V its codes."""

    def __init__(
        self,
        modules: TalkerModules,
        checkpoint: Checkpoint,
        speakers: Mapping[str, Speaker],
        limits: EngineLimits,
        *,
        compiled: bool = False,
    ) -> None:
        self._embed = modules.embedding
        self._codec_head = pack_linears(modules.codec_head)
        self._settings = checkpoint.settings.talker
        self._engine = Engine(modules.decoder, limits, pack_linears(modules.projection), compiled=compiled)
        self._requests: dict[str, _Speech] = {}
        self._device, self._dtype = self._embed.weight.device, self._embed.weight.dtype
        self._suppressed = self._mask(checkpoint.settings.suppressed_codes)
        self._prompt_codes = self._mask(self._settings.prompt_codes)
        names = list(speakers)
        text = [self._settings.text_end, self._settings.text_pad, *(speakers[name].bos_token for name in names)]
        rows = embedding_rows(checkpoint, text).to(self._device, self._dtype)
        self._text_end, self._text_pad = rows[0:1], rows[1:2]
        self._speaker_rows = {name: row[None] for name, row in zip(names, rows[2:])}
        if compiled:
            warm_up(self._compute, (1, *MANY))

    @torch.inference_mode()
    def _compute(self, rows: int) -> None:
        """So many rows of nobody's: a step, or several where the limits say so."""
        self._engine.open("")
        self._feed_reply("", self._embedded(0).expand(rows, -1), 0)
        while self._engine.waiting(""):
            self._engine.run(self._engine.plan({"": rows}).grants)
        self._engine.close("")

    def speech_left(self, prompt: int) -> int:
        """How many codes fit behind a prompt of so many rows; below 1: none."""
        return self._engine.capacity - prompt - BEGINNING

    @property
    def free_blocks(self) -> int:
        """KV blocks nobody holds; the prefix cache may still find some of them."""
        return self._engine.kv.pool.free

    def counters(self) -> dict[str, int]:
        """Of the prefix cache and of preemptions."""
        return self._engine.counters()

    def open(self, request: str, sampling: SamplingParams, speaker: str) -> None:
        """Begin a request with no prompt yet; ``speaker`` is a key of the speakers."""
        sampler = Sampler(request, NODE, sampling, self._prompt_codes.clone(), self._suppressed)
        self._requests[request] = _Speech(sampler, speaker)
        self._engine.open(request)

    def force(self, request: str, choices: Sequence[tuple[int, ...]]) -> None:
        """Codes to repeat, before the prompt comes. Raises RequestError for one outside the vocabulary."""
        self._requests[request].sampler.force(choices, self._settings.decoder.vocab_size)

    def forced(self, request: str) -> int:
        """How many codes are still to repeat."""
        return len(self._requests[request].sampler.forced)

    def close(self, request: str) -> None:
        """Forget a request, its KV included; idempotent."""
        self._requests.pop(request, None)
        self._engine.close(request)

    def waiting(self, request: str) -> int:
        """Rows that could be computed and are not in the KV."""
        return self._engine.waiting(request)

    def feed_prompt(self, request: str, packet: PromptStates) -> None:
        """Append prompt rows; the node has seen to it that they fit."""
        state = self._requests[request]
        rows = self._rows(request, to_tensor(packet.states, self._device))
        state.prompt += len(rows)
        state.next_position = packet.next_position
        reply = BEGINNING + min(state.sampler.params.max_tokens, self.speech_left(state.prompt))
        identity = state_identity(packet.states.values, packet.positions.values) if self._engine.prefix_cache else b""
        positions = to_tensor(packet.positions, self._device)
        self._engine.feed(request, Rows(rows, positions, identity), reply=reply, more=not packet.last)

    @torch.inference_mode()
    def begin(self, request: str, thought: Thought) -> None:
        """Append the two rows that the first code needs: the speaker, and the first thought."""
        state = self._requests[request]
        state.begun = True
        speaker = self._speaker_rows[state.speaker] + self._embedded(self._settings.codec_pad)
        first = self._rows(request, to_tensor(thought.state, self._device))
        rows = torch.cat([speaker, first + self._embedded(self._settings.codec_start)])
        self._feed_reply(request, rows, state.next_position)

    @torch.inference_mode()
    def feed_code(self, request: str, code: int, thought: Thought | None) -> None:
        """Append the next code that was said, with the thought that goes with the one after it. None where the text has
        ended: its end mark the first time, then padding for ever."""
        state = self._requests[request]
        row = self._embedded(code) + self._text_row(request, state, thought)
        self._feed_reply(request, row, state.next_position + BEGINNING + state.spoken)
        state.spoken += 1

    def plan(self, room: Mapping[str, int]) -> Plan:
        """Who advances; ``room`` is how many rows each request may compute."""
        return self._engine.plan(room)

    @torch.inference_mode()
    def run(self, grants: tuple[Grant, ...]) -> list[Prediction]:
        """One packed forward, and the head and a draw once over the last rows of those whose next code is not forced."""
        computed = self._engine.run(grants)
        codes = {c.request: self._predicted(c) for c in computed}
        drawing = [c for c in computed if codes[c.request] and not self.forced(c.request)]
        drawn: dict[str, int] = {}
        if drawing:
            logits = self._codec_head(torch.stack([c.hidden[-1] for c in drawing]))
            ids = draw([self._requests[c.request].sampler for c in drawing], logits)
            drawn = dict(zip((c.request for c in drawing), ids))
        return [Prediction(request, count, drawn.get(request)) for request, count in codes.items() if count]

    def _predicted(self, computed: Computed) -> int:
        """How many codes its rows predict: the first thought's row the first, and each code's row the next."""
        state = self._requests[computed.request]
        first = state.prompt + BEGINNING - 1
        end = computed.start + len(computed.rows)
        return max(0, end - max(computed.start, first)) if state.begun else 0

    def choose(self, prediction: Prediction) -> int:
        """The next code of ``prediction``. Raises RequestError where the logits are not finite."""
        return self._requests[prediction.request].sampler.choose(prediction.drawn)

    def _text_row(self, request: str, state: _Speech, thought: Thought | None) -> torch.Tensor:
        if thought is not None:
            return self._rows(request, to_tensor(thought.state, self._device))
        first, state.text_ended = not state.text_ended, True
        return self._text_end if first else self._text_pad

    def _feed_reply(self, request: str, rows: torch.Tensor, position: int) -> None:
        """Append rows whose positions go on from ``position`` on all three axes."""
        positions = torch.arange(position, position + len(rows), device=self._device).expand(3, -1)
        self._engine.feed(request, Rows(rows, positions))

    def _embedded(self, code: int) -> torch.Tensor:
        """(1, E)."""
        return self._embed.weight[code][None]

    def _rows(self, request: str, states: torch.Tensor) -> torch.Tensor:
        size = self._settings.embedding_size
        if states.ndim != 2 or states.shape[1] != size:
            message = f"states are {tuple(states.shape)}; allowed: (n, {size})"
            raise RequestError(request, Code.NODE_FAILED, message)
        return states.to(self._dtype)

    def _mask(self, codes: Iterable[int]) -> torch.Tensor:
        """(V,) bool, True at ``codes``."""
        mask = torch.zeros(self._settings.decoder.vocab_size, dtype=torch.bool)
        mask[sorted(codes)] = True
        return mask.to(self._device)
