"""What ``run`` does with output packets: text to stdout, sound to a WAV, and the result as one object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import typer

from omni_graph.cli.wav import WavWriter
from omni_graph.payload import Array, AudioChunk, TextDelta
from omni_graph.plan import Plan
from omni_graph.runtime.app import PacketEvent

EMPTY_RATE = 24_000  # of a WAV that no packet ever told its rate
MODALITIES = ("text", "audio", "image", "video")


def kinds_of(plan: Plan, outputs: Sequence[str]) -> dict[str, type]:
    """The payload type of each output."""
    return {name: plan.edges[plan.outputs[name]].type for name in outputs}


def speaks(plan: Plan, outputs: Sequence[str]) -> bool:
    """Is one of the outputs sound?"""
    return AudioChunk in kinds_of(plan, outputs).values()


class Reader:
    """Reads events as they come. ``quiet``: nothing to stdout before ``result``."""

    def __init__(self, plan: Plan, outputs: Sequence[str], speech: Path, *, quiet: bool) -> None:
        kinds = kinds_of(plan, outputs)
        self._text: list[TextDelta] = []
        self._texts = [name for name, kind in kinds.items() if kind is TextDelta]
        self._sounds = [name for name, kind in kinds.items() if kind is AudioChunk]
        self._speech = speech
        self._wavs: dict[str, WavWriter] = {}
        self._usage: dict[str, int] = {}
        self._others: dict[str, list[Any]] = {n: [] for n in outputs if n not in (*self._texts, *self._sounds)}
        self._quiet = quiet
        self._at_line_start = True

    def read(self, event: PacketEvent) -> None:
        """One packet."""
        packet = event.packet
        if isinstance(packet, TextDelta):
            self._on_text(event.output, packet)
        elif isinstance(packet, AudioChunk):
            self._wav(event.output, packet.sample_rate).write(packet.samples)
            self._count(packet.usage)
        else:
            self._others[event.output].append(_plain(packet))
            if not self._quiet:
                typer.echo(json.dumps({event.output: _plain(packet)}))

    def _on_text(self, output: str, delta: TextDelta) -> None:
        if output == self._texts[0]:
            self._text.append(delta)
        self._count(delta.usage)
        if not self._quiet and delta.text:
            typer.echo(delta.text, nl=False)
            self._at_line_start = delta.text.endswith("\n")

    def _count(self, usage: Sequence[tuple[str, int]]) -> None:
        for name, count in usage:
            self._usage[name] = self._usage.get(name, 0) + count

    def _wav(self, output: str, rate: int) -> WavWriter:
        """One file per sound output; the first is called as the user asked, the others after their output."""
        if output not in self._wavs:
            first = output == self._sounds[0]
            path = self._speech if first else self._speech.with_stem(f"{self._speech.stem}-{output}")
            self._wavs[output] = WavWriter(path, rate)
        return self._wavs[output]

    def complete(self) -> None:
        """Nothing more will come: a sound output without a packet is a valid empty WAV."""
        for output in self._sounds:
            self._wav(output, EMPTY_RATE)

    def end_line(self, *, err: bool = False) -> None:
        """What is written next begins on a line of its own."""
        if not self._at_line_start:
            typer.echo(err=err)
            self._at_line_start = True

    def close(self) -> None:
        """Close the files; what was written so far is valid. Idempotent."""
        for wav in self._wavs.values():
            wav.close()

    def written(self) -> str:
        """One line on what was written where."""
        files = [f"{wav.path} ({wav.samples / wav.rate:.2f} s at {wav.rate} Hz)" for wav in self._wavs.values()]
        return f"wrote {', '.join(files)}" if files else ""

    def result(self) -> dict[str, Any]:
        """The object of ``--json`` as far as packets tell it; what was not asked for is null."""
        merged = TextDelta.merge(self._text)
        out: dict[str, Any] = {"text": merged.text if self._texts else None, "token_ids": list(merged.token_ids)}
        out["speech"] = _sound(self._wavs[self._sounds[0]]) if self._sounds else None
        out |= {name: _sound(self._wavs[name]) for name in self._sounds[1:]}
        out |= self._others
        prompt = {modality: self._usage.get(f"prompt.{modality}", 0) for modality in MODALITIES}
        completion = {modality: self._usage.get(f"completion.{modality}", 0) for modality in MODALITIES[:2]}
        out["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
        out["finish_reason"] = merged.finish_reason or None
        return out


def _sound(wav: WavWriter) -> dict[str, Any]:
    return {"path": str(wav.path), "sample_rate": wav.rate, "samples": wav.samples}


def _plain(value: Any) -> Any:
    """A packet as JSON; arrays as their dtype and shape."""
    if is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Array):
        return {name: _plain(item) for name, item in _fields(value).items()}
    if isinstance(value, Array):
        return {"dtype": value.dtype, "shape": list(value.shape)}
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _fields(packet: Any) -> Mapping[str, Any]:
    return {name: getattr(packet, name) for name in packet.__dataclass_fields__}
