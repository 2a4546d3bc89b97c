"""Opening a checkpoint: every published layout gives the same settings, and what is wrong is said with file and key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_nodes.qwen2_5_omni.checkpoint import CheckpointError, default_cache, open_checkpoint
from omni_nodes.qwen2_5_omni.config_reader import read_processor, read_settings

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(odd_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage, in the hub's layout."""
    return Path(shutil.copytree(odd_folder, tmp_path / "checkpoint"))


@pytest.fixture
def single(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage, as transformers 5 saves."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "single"))


def edit(file: Path, change: Edit) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_opening_imports_no_torch(tiny_folder: Path) -> None:
    script = (
        "import sys; from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(tiny_folder)!r}); "
        "print(sorted({'torch', 'transformers', 'numpy', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_special_ids_are_the_tokenizers(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    settings = open_checkpoint(str(tiny_folder)).settings
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokens = settings.tokens
    ids = (tokens.audio, tokens.image, tokens.video, tokens.audio_start, tokens.audio_end)
    assert ids == tuple(
        tokenizer.convert_tokens_to_ids(t)
        for t in ("<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|audio_bos|>", "<|audio_eos|>")
    )
    assert (tokens.vision_start, tokens.vision_end) == tuple(
        tokenizer.convert_tokens_to_ids(t) for t in ("<|vision_bos|>", "<|vision_eos|>")
    )
    assert settings.thinker_eos == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_suppressed_are_the_start_and_codes_without_embedding_but_no_end(tiny_folder: Path) -> None:
    settings = open_checkpoint(str(tiny_folder)).settings
    assert settings.talker.eos == {108, 110}
    assert settings.talker.prompt_codes == {108, 109, 112}
    assert settings.suppressed_codes == set(range(100, 128)) - {108, 110}


def test_older_and_newer_config_keys_give_equal_settings(odd_folder: Path, tmp_path: Path) -> None:
    from transformers import Qwen2_5OmniConfig

    assert "rope_scaling" in json.loads((odd_folder / "config.json").read_text())["thinker_config"]["text_config"]
    Qwen2_5OmniConfig.from_pretrained(odd_folder).save_pretrained(tmp_path)
    assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())["thinker_config"]["text_config"]
    assert read_settings(tmp_path) == read_settings(odd_folder)


def test_missing_keys_take_the_defaults_of_transformers_classes(tmp_path: Path) -> None:
    from transformers import Qwen2_5OmniConfig

    required = {"vision_start_token_id": 151652, "eos_token_id": [151645, 151643]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": required}))
    ours, theirs = read_settings(tmp_path), Qwen2_5OmniConfig(thinker_config=required)
    thinker, talker, dit = theirs.thinker_config, theirs.talker_config, theirs.token2wav_config.dit_config
    text, audio, vision = thinker.text_config, thinker.audio_config, thinker.vision_config
    tokens, codec = ours.tokens, ours.codec
    pairs = {
        "audio": (tokens.audio, thinker.audio_token_index),
        "image": (tokens.image, thinker.image_token_index),
        "video": (tokens.video, thinker.video_token_index),
        "audio start": (tokens.audio_start, thinker.audio_start_token_id),
        "audio end": (tokens.audio_end, thinker.audio_end_token_id),
        "vision end": (tokens.vision_end, talker.vision_end_token_id),
        "position ids": (tokens.position_id_per_seconds, thinker.position_id_per_seconds),
        "chunk": (tokens.seconds_per_chunk, thinker.seconds_per_chunk),
        "eos": (ours.thinker_eos, set(thinker.eos_token_id)),
        "tied": (ours.tied_embeddings, thinker.tie_word_embeddings),
        "speech": (ours.enable_audio_output, theirs.enable_audio_output),
        "mel": (ours.audio.mel_bins, audio.num_mel_bins),
        "window": (ours.audio.n_window, audio.n_window),
        "audio out": (ours.audio.output_dim, audio.output_dim),
        "patch": (ours.vision.patch_size, vision.patch_size),
        "temporal": (ours.vision.temporal_patch_size, vision.temporal_patch_size),
        "merge": (ours.vision.spatial_merge_size, vision.spatial_merge_size),
        "channels": (ours.vision.in_channels, vision.in_channels),
        "vision out": (ours.vision.output_dim, vision.out_hidden_size),
        "embedding": (ours.talker.embedding_size, talker.embedding_size),
        "text start": (ours.talker.text_start, talker.tts_text_start_token_id),
        "text end": (ours.talker.text_end, talker.tts_text_end_token_id),
        "text pad": (ours.talker.text_pad, talker.tts_text_pad_token_id),
        "codec pad": (ours.talker.codec_pad, talker.tts_codec_pad_token_id),
        "codec start": (ours.talker.codec_start, talker.tts_codec_start_token_id),
        "codec end": (ours.talker.codec_end, talker.tts_codec_end_token_id),
        "codec mask": (ours.talker.codec_mask, talker.tts_codec_mask_token_id),
        "block": (codec.block_size, dit.block_size),
        "repeats": (codec.repeats, dit.repeats),
        "layers": (codec.layers, dit.num_hidden_layers),
        "ahead": (codec.look_ahead_layers, tuple(dit.look_ahead_layers)),
        "back": (codec.look_backward_layers, tuple(dit.look_backward_layers)),
        "embeds": (codec.num_embeds, dit.num_embeds),
        "codec mel": (codec.mel_bins, dit.mel_dim),
        "speaker": (codec.speaker_dim, dit.enc_emb_dim),
    }
    for decoder, config, head_dim in (
        (ours.thinker, text, text.hidden_size // text.num_attention_heads),
        (ours.talker.decoder, talker, talker.head_dim),
    ):
        pairs |= {
            f"{config.model_type} hidden": (decoder.hidden_size, config.hidden_size),
            f"{config.model_type} vocabulary": (decoder.vocab_size, config.vocab_size),
            f"{config.model_type} layers": (decoder.layers, config.num_hidden_layers),
            f"{config.model_type} heads": (decoder.heads, config.num_attention_heads),
            f"{config.model_type} kv heads": (decoder.kv_heads, config.num_key_value_heads),
            f"{config.model_type} head dim": (decoder.head_dim, head_dim),
            f"{config.model_type} context": (decoder.context_length, config.max_position_embeddings),
        }
    assert {name: ours for name, (ours, _) in pairs.items()} == {name: theirs for name, (_, theirs) in pairs.items()}


def test_the_published_ids_follow_from_the_published_sizes(tmp_path: Path) -> None:
    required = {"vision_start_token_id": 151652, "eos_token_id": 151645}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": required}))
    settings = read_settings(tmp_path)
    assert settings.codec.codes == 8194
    assert settings.codec.block_codes == 12
    assert settings.audio.block_frames == 200
    assert settings.vision.patch_values == 1176
    assert settings.talker.eos == {8292, 8294}
    assert settings.suppressed_codes == set(range(8194, 8448)) - {8292, 8294}


def test_the_end_of_a_reply_is_looked_for_where_transformers_does(folder: Path) -> None:
    config = folder / "config.json"
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    edit(config, lambda c: c["thinker_config"]["text_config"].update(eos_token_id=7))
    edit(config, lambda c: c["thinker_config"].update(eos_token_id=5))
    assert read_settings(folder).thinker_eos == {5}
    edit(config, lambda c: c["thinker_config"].pop("eos_token_id"))
    assert read_settings(folder).thinker_eos == {7}
    edit(config, lambda c: c["thinker_config"]["text_config"].pop("eos_token_id"))
    assert read_settings(folder).thinker_eos == {1, 2}
    (folder / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: thinker_config\.eos_token_id is missing"):
        read_settings(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(model_type="qwen2_5_vl"), r"model_type is 'qwen2_5_vl'.*'qwen2_5_omni'"),
        (lambda c: c.pop("model_type"), r"model_type is None"),
        (
            lambda c: c["thinker_config"].pop("vision_start_token_id"),
            r"thinker_config\.vision_start_token_id is missing",
        ),
        (
            lambda c: c["talker_config"].update(tts_codec_end_token_id="8294"),
            r"talker_config\.tts_codec_end_token_id is '8294'; allowed: an integer",
        ),
        (
            lambda c: c["thinker_config"].update(audio_config=[]),
            r"thinker_config\.audio_config is \[\]; allowed: an obj",
        ),
        (
            lambda c: c["token2wav_config"]["dit_config"].update(look_ahead_layers=["0"]),
            r"token2wav_config\.dit_config\.look_ahead_layers is \['0'\]; allowed: a list of integers",
        ),
        (lambda c: c.update(enable_audio_output="no"), r"enable_audio_output is 'no'; allowed: true or false"),
    ],
)
def test_a_config_error_names_file_and_key(folder: Path, change: Edit, message: str) -> None:
    edit(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=r"config\.json: " + message):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"config\.json: no such file"),
        ("config.json", "{", r"config\.json: not readable as JSON"),
        ("config.json", "[]", r"config\.json: expected a JSON object, found list"),
        ("preprocessor_config.json", None, r"neither processor_config\.json nor preprocessor_config\.json"),
        ("chat_template.json", None, r"no chat template; it is looked for in chat_template\.jinja"),
        ("model.safetensors.index.json", None, r"no weights; expected model\.safetensors or"),
        ("model-00003-of-00008.safetensors", None, r"model-00003-of-00008\.safetensors: no such file, but .*index"),
    ],
)
def test_a_missing_or_broken_file_is_named(folder: Path, name: str, content: str | None, message: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\xff" * 64, b"\x04" + b"\0" * 7 + b"{{{{"])
def test_a_weights_file_cut_short_is_named(single: Path, content: bytes) -> None:
    (single / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file, or cut short"):
        open_checkpoint(str(single))


def test_both_weight_layouts_index_every_tensor(tiny_folder: Path, odd_folder: Path) -> None:
    from safetensors import safe_open

    for folder in (tiny_folder, odd_folder):
        opened = open_checkpoint(str(folder))
        stored = {}
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "np") as handle:
                stored |= dict.fromkeys(handle.keys(), file)
        assert opened.tensors == stored
    assert len(set(opened.tensors.values())) == 8


def test_the_chat_template_is_found_in_each_of_its_places(folder: Path) -> None:
    template = open_checkpoint(str(folder)).chat_template
    assert "<|audio_bos|><|AUDIO|><|audio_eos|>" in template
    (folder / "chat_template.json").unlink()
    edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template=template))
    assert open_checkpoint(str(folder)).chat_template == template
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template=named))
    assert open_checkpoint(str(folder)).chat_template == "yes"
    (folder / "chat_template.jinja").write_text("first")
    assert open_checkpoint(str(folder)).chat_template == "first"


def test_both_processor_layouts_agree_with_each_other(tiny_folder: Path, odd_folder: Path) -> None:
    images, videos, mel = read_processor(tiny_folder)
    assert read_processor(odd_folder) == (images, videos, mel)
    assert (images.min_pixels, images.max_pixels) == (3136, 12845056)
    assert (videos.min_pixels, videos.max_pixels) == (128 * 28 * 28, 768 * 28 * 28)
    assert (mel.mel_bins, mel.n_fft, mel.hop_length, mel.sample_rate) == (128, 400, 160, 16000)


@pytest.mark.parametrize("shape", ["tiny_folder", "odd_folder"])
def test_the_processor_settings_are_what_transformers_reads(shape: str, request: pytest.FixtureRequest) -> None:
    from tests.nodes.qwen2_5_omni.reference import Reference

    folder = request.getfixturevalue(shape)
    processor = Reference(folder).processor
    images, _, mel = read_processor(folder)
    theirs = processor.image_processor
    assert (images.min_pixels, images.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])
    assert (images.patch_size, images.merge_size) == (theirs.patch_size, theirs.merge_size)
    assert (list(images.mean), list(images.std)) == (list(theirs.image_mean), list(theirs.image_std))
    extractor = processor.feature_extractor
    assert (mel.mel_bins, mel.n_fft) == (extractor.feature_size, extractor.n_fft)
    assert (mel.hop_length, mel.sample_rate) == (extractor.hop_length, extractor.sampling_rate)


def test_pixel_limits_win_over_size_and_a_video_file_over_the_defaults(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    edit(file, lambda c: c.update(size={"shortest_edge": 1, "longest_edge": 2}))
    assert read_processor(folder)[0].max_pixels == 12845056
    edit(file, lambda c: (c.pop("min_pixels"), c.pop("max_pixels")))
    images, videos, _ = read_processor(folder)
    assert (images.min_pixels, images.max_pixels) == (1, 2)
    assert videos.max_pixels == 768 * 28 * 28
    (folder / "video_preprocessor_config.json").write_text('{"min_pixels": 3, "max_pixels": 4}')
    videos = read_processor(folder)[1]
    assert (videos.min_pixels, videos.max_pixels) == (3, 4)


def test_what_speech_lacks_is_said(folder: Path) -> None:
    assert open_checkpoint(str(folder)).speech_missing == ""
    index = folder / "model.safetensors.index.json"
    full = index.read_text()
    for prefix, word in (("talker.", "no Talker"), ("token2wav.", "no codec")):
        index.write_text(full)
        edit(index, lambda c, p=prefix: [c["weight_map"].pop(k) for k in list(c["weight_map"]) if k.startswith(p)])
        assert word in open_checkpoint(str(folder)).speech_missing
    index.write_text(full)
    edit(folder / "config.json", lambda c: c.update(enable_audio_output=False))
    assert "enable_audio_output: false" in open_checkpoint(str(folder)).speech_missing


@pytest.mark.parametrize("source", ["/no/such/folder", "./gone", "gone", "a/b/c", "~/nowhere-at-all"])
def test_a_source_that_is_nothing_says_what_is_allowed(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder; allowed: a folder, a hub id .*'tiny'"):
        open_checkpoint(source)


def test_a_hub_id_is_downloaded_at_its_revision(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(tiny_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert open_checkpoint("Qwen/Qwen2.5-Omni-7B").folder == tiny_folder
    open_checkpoint("Qwen/Qwen2.5-Omni-7B@refs/pr/3")
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "spk_dict.pt"]
    assert asked == [
        ("Qwen/Qwen2.5-Omni-7B", None, patterns),
        ("Qwen/Qwen2.5-Omni-7B", "refs/pr/3", patterns),
    ]


def test_a_failed_download_names_id_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, **_: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"Qwen/Omni: .*could not be downloaded at revision v1: no route to host"):
        open_checkpoint("Qwen/Omni@v1")


ASK_FOR_TINY = """
import shutil, sys, types
from pathlib import Path
from omni_nodes.qwen2_5_omni import checkpoint

def build_tiny(folder):  # stands for the real one, which needs seconds to import torch; waits for the test's word
    print("building", flush=True)
    sys.stdin.readline()
    draft = folder.with_name(".draft")
    shutil.copytree(sys.argv[1], draft)
    draft.rename(folder)  # at once, as the real one does

sys.modules["omni_nodes.qwen2_5_omni.tiny"] = types.SimpleNamespace(build_tiny=build_tiny)
print("asking", flush=True)
print(checkpoint.open_checkpoint("tiny", Path(sys.argv[2])).folder)
"""


def test_tiny_is_built_once_by_processes_that_ask_together(tiny_folder: Path, tmp_path: Path) -> None:
    def ask() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", ASK_FOR_TINY, str(tiny_folder), str(tmp_path)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    first = ask()
    assert [first.stdout.readline() for _ in range(2)] == ["asking\n", "building\n"]
    second = ask()
    assert second.stdout.readline() == "asking\n"
    folder = Path(first.communicate("go\n")[0].strip())
    assert second.communicate("go\n")[0].strip() == str(folder)  # and no "building"
    assert (first.returncode, second.returncode) == (0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "tiny-qwen2.5-omni.lock"}


def test_tiny_is_cached_by_what_the_builder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omni_nodes.qwen2_5_omni import checkpoint

    first = open_checkpoint("tiny", tmp_path).folder
    monkeypatch.setattr("omni_nodes.qwen2_5_omni.tiny.build_tiny", lambda folder: pytest.fail("built again"))
    assert open_checkpoint("tiny", tmp_path).folder == first
    monkeypatch.setattr(checkpoint, "version", lambda name: "another transformers")
    with pytest.raises(pytest.fail.Exception, match="built again"):
        open_checkpoint("tiny", tmp_path)


def test_what_other_builders_left_goes_when_one_builds(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same source; also what one that was killed had begun."""
    for name in ("tiny-qwen2.5-omni-old", ".tiny-qwen2.5-omni-old.begun", "bench-qwen2.5-omni-old"):
        (tmp_path / name / "deeper").mkdir(parents=True)
    monkeypatch.setattr("omni_nodes.qwen2_5_omni.tiny.build_tiny", lambda folder: shutil.copytree(tiny_folder, folder))
    built = open_checkpoint("tiny", tmp_path).folder
    left = {built.name, "tiny-qwen2.5-omni.lock", "bench-qwen2.5-omni-old"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "omni-graph"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "omni-graph"
