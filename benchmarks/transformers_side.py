"""transformers' Qwen2.5-Omni on the same weights, in a process of its own: what the model benches are held against.

The whole answer comes at the end of ``generate``: first audio and total are one. It is mended like the parity tests' oracle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.model_app import THREADS
from benchmarks.prompts import messages

if TYPE_CHECKING:
    from benchmarks.peer import Questions

MAKER = "benchmarks.transformers_side:serve"
# its waiting threads spin, as by default: 5 to 12% faster than passive ones on two cores that nobody else wants
ENVIRONMENT = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}


def serve(folder: str) -> Questions:
    """Load the checkpoint, and answer once, uncounted: the first answer pays for what is made on first use."""
    from tests import torchvision_shim

    torchvision_shim.install()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    side = Transformers(Path(folder))
    side.answer("text 20", 8, 24)
    return {"answer": side.answer, "token_times": side.token_times, "batch": side.batch}


class Transformers:
    """One loaded model. Times are in seconds and include the processor's."""

    def __init__(self, folder: Path) -> None:
        from tests.nodes.qwen2_5_omni.processed import processed
        from tests.nodes.qwen2_5_omni.reference import Reference

        self._reference = Reference(folder)
        self._processed = processed

    def answer(self, prompt: str, tokens: int, codes: int) -> dict[str, Any]:
        """One request, whole: {seconds, token_ids, samples}."""
        began = time.perf_counter()
        inputs = self._processed(self._reference, messages(prompt))
        found = self._reference.generate(inputs, max_tokens=tokens, talker_max_tokens=codes, seed=1, speech=codes > 0)
        samples = 0 if found.waveform is None else len(found.waveform)
        return {"seconds": time.perf_counter() - began, "token_ids": found.token_ids, "samples": samples}

    def token_times(self, prompt: str, tokens: int) -> list[float]:
        """Seconds until each token of one text answer."""
        began = time.perf_counter()
        inputs = self._processed(self._reference, messages(prompt))
        clock = _Clock(began)
        self._reference.model.thinker.generate(**inputs, max_new_tokens=tokens, do_sample=False, streamer=clock)
        return clock.times

    def batch(self, prompts: Sequence[str], tokens: int, codes: int) -> float:
        """Seconds for padded prompts together, each answered with as many tokens as the longest wants."""
        began = time.perf_counter()
        reference = self._reference
        texts = [reference.prompt(messages(prompt)) for prompt in prompts]
        inputs = dict(reference.processor(text=texts, return_tensors="pt", padding=True))
        thinker = {"thinker_max_new_tokens": tokens, "thinker_do_sample": False}
        talker = {
            "talker_max_new_tokens": codes,
            "talker_do_sample": False,
            "talker_eos_token_id": reference.talker_eos,
        }
        wanted = {**talker, "speaker": "Chelsie"} if codes else {"generation_mode": "text"}
        reference.model.generate(**inputs, **thinker, **wanted)
        return time.perf_counter() - began


class _Clock:
    """A streamer that notes when tokens come; transformers puts the prompt first."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._prompt = True
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        if not self._prompt:
            self.times.append(time.perf_counter() - self._began)
        self._prompt = False

    def end(self) -> None:
        """Nothing to note."""
