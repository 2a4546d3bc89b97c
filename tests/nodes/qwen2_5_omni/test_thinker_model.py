"""What the Thinker's host waits for beside the ids: the states of all replies that are spoken, once a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from omni_graph.testing import run_node
from omni_nodes.engine.runner import Runner
from omni_nodes.qwen2_5_omni import thinker_model
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.nodes.qwen2_5_omni.company import prompt_of

REQUESTS, TOKENS = 4, 12


@pytest.mark.parametrize("outputs", [("text", "states", "thought"), ("text",)])
def test_the_states_of_all_replies_come_to_the_host_together(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, ...]
) -> None:
    """And not at all where nobody listens."""
    copied: list[int] = []
    steps: list[int] = []
    copy, run = thinker_model.from_tensor, Runner.run

    def counted(tensor: torch.Tensor) -> Any:
        copied.append(len(tensor))
        return copy(tensor)

    def stepped(self: Runner, slices: Any) -> Any:
        steps.append(len(slices))
        return run(self, slices)

    monkeypatch.setattr(thinker_model, "from_tensor", counted)
    monkeypatch.setattr(Runner, "run", stepped)
    inputs = {f"r{n}": {"prompt": prompt_of([n, 7, 9])} for n in range(REQUESTS)}
    params = {request: {"max_tokens": TOKENS} for request in inputs}
    sent = run_node(Thinker(str(tiny_folder)), inputs, params, outputs=outputs)
    assert all(sum(len(delta.token_ids) for delta in one["text"]) == TOKENS for one in sent.values())
    if "thought" in outputs:
        assert sum(copied) == REQUESTS * (TOKENS - 1) and max(copied) == REQUESTS
        assert len(copied) < len(steps)
    else:
        assert not copied
