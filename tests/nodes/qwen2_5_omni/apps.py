"""The packaged graph, launched on a test checkpoint, with the Talker's codes as one more output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.runtime.app import App, Result
from omni_graph.spec import DeploySpec

OUTPUTS = ("text", "speech", "codes")
DTYPED = ("audio_encoder", "vision_encoder", "thinker", "talker")  # bfloat16 on a GPU, where nobody says otherwise


def in_dtype(dtype: str) -> tuple[str, ...]:
    """The settings of a graph whose nodes compute in ``dtype``, but for token2wav."""
    return tuple(f"nodes.{name}.config.dtype={dtype}" for name in DTYPED)


def omni_graph_of(folder: Path, codec_context: str = "exact", settings: Sequence[str] = ()) -> Graph:
    """graphs/qwen2_5_omni.yaml on ``folder``, in float32; output ``codes`` is a second reader of talker.codes."""
    parameters = {"checkpoint": str(folder), "codec_context": codec_context}
    graph = og.load_graph("qwen2_5_omni", parameters=parameters, settings=(*in_dtype("float32"), *settings))
    spec = graph.spec.model_copy(update={"outputs": {**graph.spec.outputs, "codes": "talker.codes"}})
    return Graph(spec, graph.folder)


def launch(folder: Path, codec_context: str = "exact", launcher: str = "threads", **deploy: Any) -> App:
    """A running graph."""
    settings = deploy.pop("settings", ())
    return og.launch(omni_graph_of(folder, codec_context, settings), DeploySpec(**deploy), launcher)


def greedy(max_tokens: int, talker_max_tokens: int, voice: str = "") -> dict[str, dict[str, Any]]:
    """The parameters of a request whose tokens and codes transformers can repeat."""
    talker: dict[str, Any] = {"temperature": 0.0, "max_tokens": talker_max_tokens}
    return {"thinker": {"max_tokens": max_tokens}, "talker": {**talker, "voice": voice} if voice else talker}


def codes_of(result: Result) -> tuple[int, ...]:
    """The codes of an answer, in order."""
    return tuple(int(code) for packet in result["codes"] for code in packet.values.values.reshape(-1))


def samples_of(result: Result) -> np.ndarray:
    """The waveform of an answer, float32 (n,)."""
    values: np.ndarray = result["speech"].samples.values
    return values


def tone(seconds: float, base: float = 200.0, seed: int = 0) -> np.ndarray:
    """A rising tone with a little noise, float32 (n,) at 16 kHz."""
    t = np.arange(int(16_000 * seconds)) / 16_000
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.3 * np.sin(2 * np.pi * (base + 80 * t) * t) + 0.01 * noise).astype(np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random clip, uint8 (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def png(path: Path, pixels: np.ndarray) -> str:
    """``pixels`` as a file."""
    Image.fromarray(pixels).save(path)
    return str(path)


Messages = Sequence[Mapping[str, Any]]
