"""The model's own nodes, each of which gets into the trouble that lies ready for it before its next step.

A file ``NUMBER STAGE FAULT`` in the folder that OMNI_GRAPH_TEST_TROUBLE names is trouble; whoever takes it, has it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from omni_graph import Inbox, Outbox
from omni_nodes.qwen2_5_omni import (
    audio_encoder,
    bigvgan,
    codec_dit,
    frontend,
    interleaver,
    talker,
    thinker,
    vision_encoder,
)
from tests.runtime.speech import FAULTS

FOLDER = "OMNI_GRAPH_TEST_TROUBLE"


def lay(folder: Path, stage: str, fault: str, times: int = 1) -> None:
    """For the stage's next step; where that ends its process, for the first steps of the next ones too."""
    for number in range(times):
        (folder / f"{number} {stage} {fault}").touch()


def laid(stage: str) -> list[Path]:
    """What lies ready, as far as this process can still look."""
    try:
        return sorted(Path(os.environ[FOLDER]).glob(f"* {stage} *"))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return []


class _Troubled:
    """Before every step."""

    stage: str

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for file in laid(self.stage):
            file.unlink()
            FAULTS[file.name.split(" ", 2)[2]]()
        more: bool = super().step(inbox, outbox)  # type: ignore[misc]
        return more


def _troubled(stage: str, cls: Any) -> Any:
    return type(cls.__name__, (_Troubled, cls), {"stage": stage, "__module__": __name__})


Frontend = _troubled("frontend", frontend.Frontend)
AudioEncoder = _troubled("audio_encoder", audio_encoder.AudioEncoder)
VisionEncoder = _troubled("vision_encoder", vision_encoder.VisionEncoder)
Interleaver = _troubled("interleaver", interleaver.Interleaver)
Thinker = _troubled("thinker", thinker.Thinker)
Talker = _troubled("talker", talker.Talker)
CodecDiT = _troubled("codec_dit", codec_dit.CodecDiT)
BigVGAN = _troubled("bigvgan", bigvgan.BigVGAN)
