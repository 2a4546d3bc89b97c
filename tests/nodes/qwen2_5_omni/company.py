"""Many requests on one Thinker or Talker at once: joining, leaving, paused and preempted at any step, all by one random
source. What they send is for the tests to compare."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from omni_graph.payload import Array, TextDelta
from omni_graph.testing.run import NodeRun
from omni_nodes.payloads import PromptSegment
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker

Inputs = Mapping[str, Sequence[Any]]
Outputs = dict[str, list[Any]]
Params = Mapping[str, Any]


MOST_PREEMPTED, MOST_OTHERS = 6, 40  # or steps of one row would go in circles


class Company:
    """Plays requests on ``node``. ``disturb``: the chance, at each move, of a cancel, a pause or a preemption."""

    def __init__(self, node: Thinker | Talker, rng: random.Random, disturb: float = 0.05) -> None:
        self.node = node
        self.rng = rng
        self.disturb = disturb
        self.cancelled = 0
        self.preempted = 0
        self._ghosts: list[str] = []

    @property
    def engine(self) -> Any:
        return self.node._model._engine

    def play(self, inputs: Mapping[str, Inputs], params: Mapping[str, Params], seed: int = 0) -> dict[str, Outputs]:
        """All of ``inputs``, each from a random step on; beside them others with the same inputs, which are cancelled."""
        run = NodeRun(self.node, rng=self.rng)
        due = list(inputs)
        self.rng.shuffle(due)
        while True:
            if due and self.rng.random() < 0.05:
                request = due.pop()
                run.open(request, inputs[request], params[request], seed)
            if self.rng.random() < self.disturb:
                self._disturb(run, inputs, params)
            if not run.move() and not due:
                if not run.paused and not self._ghosts:
                    break
                run.paused.clear()
                self._cancel(run)
        for request in inputs:
            assert not run.errors
            assert run.complete(request)
            run.close(request)
        assert self.node._model.free_blocks == self.engine.kv.pool.blocks
        return {request: run.outputs[request] for request in inputs}

    def _disturb(self, run: NodeRun, inputs: Mapping[str, Inputs], params: Mapping[str, Params]) -> None:
        what, live = self.rng.randrange(4), [one for one, rows in self.engine._sequences.items() if rows.cached]
        if what == 0 and self.cancelled + len(self._ghosts) < MOST_OTHERS:
            ghost, like = f"ghost{self.cancelled}-{len(self._ghosts)}", self.rng.choice(list(inputs))
            self._ghosts.append(ghost)
            run.open(ghost, inputs[like], params[like], 1)
        elif what == 1:
            self._cancel(run)
        elif what == 2 and live and self.preempted < MOST_PREEMPTED:
            self.preempted += 1
            self.engine.preempt(self.rng.choice(live))
        elif live:
            run.paused ^= {self.rng.choice(live)}

    def _cancel(self, run: NodeRun) -> None:
        """One that is only there for it; its blocks are free at once."""
        if self._ghosts:
            ghost = self._ghosts.pop(self.rng.randrange(len(self._ghosts)))
            run.paused.discard(ghost)
            run._finished.add(ghost)
            run.close(ghost)
            assert self.engine.kv.pool.table(ghost) == ()
            self.cancelled += 1


def keyed(prompt: Sequence[PromptSegment]) -> list[PromptSegment]:
    """The same with what an interleaver knows of media: the digest of their content."""
    return [
        replace(one, content_key=blake2b(one.embeddings.values.tobytes()).digest()) if one.modality != "text" else one
        for one in prompt
    ]


def prompt_of(ids: Sequence[int], most: int = 1000) -> list[PromptSegment]:
    """A prompt of text, in segments of ``most`` rows."""
    cuts = range(0, len(ids), most)
    return [
        PromptSegment(
            Array.of(np.array(ids[start : start + most], np.int64)),
            Array.of(np.tile(np.arange(start, min(len(ids), start + most)), (3, 1))),
            "text",
            "user",
            Array.empty(0, 0),
            min(len(ids), start + most),
            start + most >= len(ids),
        )
        for start in cuts
    ]


def tokens_of(outputs: Outputs) -> tuple[int, ...]:
    return TextDelta.merge(outputs["text"]).token_ids


def codes_of(outputs: Outputs) -> tuple[int, ...]:
    return tuple(int(packet.values.values[0, 0]) for packet in outputs["codes"])
