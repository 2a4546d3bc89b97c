"""New weights on disk come into service by a replacement: the next answer is theirs, and one under way ends on the old."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from omni_graph.runtime.app import App, Handle
from tests.nodes.qwen2_5_omni.apps import greedy, launch
from tests.nodes.qwen2_5_omni.test_recovery import MESSAGES, Answer
from tests.runtime.graphs import eventually

READY_S = 60.0
CHANGED = {"thinker": "thinker.lm_head.weight", "codec_dit": "token2wav.code2wav_dit_model.proj_out.weight"}


def negate(folder: Path, name: str) -> None:
    """By a new file in the place of the old one, of which a part may be mapped into memory."""
    file, new = folder / "model.safetensors", folder / "model.new"
    tensors = load_file(file)
    save_file(tensors | {name: -tensors[name]}, new, {"format": "pt"})
    os.replace(new, file)


def begun(app: App) -> Handle:
    return app.start({"conversation": MESSAGES}, params=greedy(24, 120), seed=7, deadline_s=240)


def whole(handle: Handle) -> Answer:
    """An answer at the first attempt."""
    made = Answer()
    for event in handle:
        made.read(event)
    handle.timings()
    assert handle.retries == 0
    return made


@pytest.mark.slow
@pytest.mark.parametrize("stage", CHANGED)
def test_an_answer_after_a_replacement_is_that_of_the_new_weights(
    stage: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_folder, folder)
    with launch(folder, "low_latency") as app, ThreadPoolExecutor(1) as pool:
        old, under_way = whole(begun(app)), begun(app)
        negate(folder, CHANGED[stage])
        replaced = pool.submit(app.replace, stage, {})
        eventually(lambda: states(app, stage) == ["draining", "ready"], READY_S)
        new = whole(begun(app))
        whole(under_way).same_as(old)
        replaced.result(READY_S)
        whole(begun(app)).same_as(new)
    with launch(folder, "low_latency") as fresh:
        whole(begun(fresh)).same_as(new)
    if stage == "thinker":
        assert new.tokens != old.tokens
    else:
        assert (new.text, new.codes) == (old.text, old.codes)
        assert not np.allclose(np.concatenate(new.chunks), np.concatenate(old.chunks), atol=0.01)


def states(app: App, stage: str) -> list[str]:
    return [replica["state"] for replica in app.status()["stages"][stage]["replicas"]]
