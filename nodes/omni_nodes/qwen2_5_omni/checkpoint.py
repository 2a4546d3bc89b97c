"""A Qwen2.5-Omni checkpoint, opened: where it lies, its settings, its template, and which file holds which tensor.

Reads JSON and file headers only; never loads a weight and imports neither torch nor transformers (``tiny`` and ``bench``,
on their first use, are built with them). A source is a folder, one of these two, or a hub id with an optional ``@revision``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from omni_nodes.qwen2_5_omni.config_reader import read_processor, read_settings
from omni_nodes.qwen2_5_omni.settings import CheckpointError, MelSettings, OmniSettings, PixelSettings, Section

__all__ = ["Checkpoint", "CheckpointError", "default_cache", "open_checkpoint"]

TINY, BENCH = "tiny", "bench"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "spk_dict.pt")
_HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_TINY_SOURCES = ("tiny.py", "tiny_config.py", "tiny_tokenizer.py")
_BUILDER_SOURCES = {TINY: _TINY_SOURCES, BENCH: (*_TINY_SOURCES, "bench_config.py")}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. ``tensors`` maps a tensor's name to its file; names are those on disk (``thinker.model...``)."""

    folder: Path
    settings: OmniSettings
    chat_template: str
    images: PixelSettings
    videos: PixelSettings
    mel: MelSettings
    tensors: Mapping[str, Path]

    @property
    def has_talker(self) -> bool:
        return self._has("talker.")

    @property
    def has_token2wav(self) -> bool:
        return self._has("token2wav.")

    @property
    def speech_missing(self) -> str:
        """Why this checkpoint cannot speak; empty when it can."""
        if not self.settings.enable_audio_output:
            return f"{self.folder / 'config.json'} says enable_audio_output: false"
        if not self.has_talker:
            return f"{self.folder} has no Talker (no tensor named talker.*)"
        if not self.has_token2wav:
            return f"{self.folder} has no codec (no tensor named token2wav.*)"
        return ""

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.tensors)


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/omni-graph``, by default ``~/.cache/omni-graph`` (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-graph"


def open_checkpoint(source: str, cache: Path | None = None) -> Checkpoint:
    """Open a folder, ``tiny`` or ``bench`` (built once into ``cache``), or a hub id such as ``Qwen/Qwen2.5-Omni-3B@main``.

    Raises CheckpointError when there is none, when it is not Qwen2.5-Omni, or when a file it needs is missing.
    """
    folder = _locate(source, cache or default_cache())
    settings = read_settings(folder)
    images, videos, mel = read_processor(folder)
    return Checkpoint(
        folder=folder,
        settings=settings,
        chat_template=_read_chat_template(folder),
        images=images,
        videos=videos,
        mel=mel,
        tensors=_read_index(folder),
    )


def _locate(source: str, cache: Path) -> Path:
    if source in (TINY, BENCH):
        return _built_folder(source, cache)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if match := _HUB_ID.fullmatch(source):
        return _download(match["id"], match["revision"])
    raise CheckpointError(
        f"{source}: no such folder; allowed: a folder, a hub id (owner/name@revision), {TINY!r}, {BENCH!r}"
    )


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # any of the client's: network, access, unknown id or revision, disk
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"{repository}: no folder of that name here, and it could not be downloaded{at}: {error}"
        ) from error


def _built_folder(source: str, cache: Path) -> Path:
    """The folder of a random checkpoint; built by the first process that asks, the others wait for it. Those that other
    builders have left, whole or not, go then."""
    name = f"{source}-qwen2.5-omni"
    folder = cache / f"{name}-{_builder_key(source)}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            from omni_nodes.qwen2_5_omni import tiny

            for left in (*cache.glob(f"{name}-*/"), *cache.glob(f".{name}-*/")):
                shutil.rmtree(left, ignore_errors=True)
            build = tiny.build_bench if source == BENCH else tiny.build_tiny
            build(folder)
    return folder


def _builder_key(source: str) -> str:
    """Names what the builder would write: its own source and the transformers that writes the files."""
    digest = hashlib.sha256(version("transformers").encode())
    for name in _BUILDER_SOURCES[source]:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]


def _read_chat_template(folder: Path) -> str:
    """chat_template.jinja, chat_template.json or tokenizer_config.json, in transformers' order."""
    if (jinja := folder / "chat_template.jinja").is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        template = Section.read(folder / name).values.get("chat_template")
        if isinstance(template, list):  # named templates
            template = next((item["template"] for item in template if item.get("name") == "default"), None)
        if isinstance(template, str):
            return template
    raise CheckpointError(
        f"{folder}: no chat template; it is looked for in chat_template.jinja, chat_template.json, tokenizer_config.json"
    )


def _read_index(folder: Path) -> dict[str, Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        weight_map = Section.read(index).section("weight_map")
        tensors = {name: folder / str(file) for name, file in weight_map.values.items()}
        for file in sorted(set(tensors.values())):
            if not file.is_file():
                raise CheckpointError(f"{file}: no such file, but {index.name} names it; is the download complete?")
        return tensors
    if single.is_file():
        return dict.fromkeys(_tensor_names(single), single)
    raise CheckpointError(f"{folder}: no weights; expected {single.name} or {index.name} with its shards (safetensors)")


def _tensor_names(file: Path) -> list[str]:
    """The names in a safetensors header: its length as a little-endian u64, then JSON."""
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError(f"a header of {length} bytes in a file of {file.stat().st_size}")
            header = json.loads(stream.read(length))
    except (struct.error, ValueError) as error:
        raise CheckpointError(f"{file}: not a safetensors file, or cut short: {error}") from None
    return [name for name in header if name != "__metadata__"]
