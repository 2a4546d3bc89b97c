"""config.json and the processor files -> settings. No torch, no transformers.

Defaults are those of transformers' config classes (configuration_qwen2_5_omni.py, WhisperFeatureExtractor,
Qwen2VLImageProcessor, Qwen2VLVideoProcessor); a test holds them to it.
"""

from __future__ import annotations

from pathlib import Path

from omni_nodes.qwen2_5_omni.settings import (
    AudioSettings,
    CheckpointError,
    CodecSettings,
    DecoderSettings,
    MediaTokens,
    MelSettings,
    OmniSettings,
    PixelSettings,
    Section,
    TalkerSettings,
    VisionSettings,
)

MODEL_TYPE = "qwen2_5_omni"
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def read_settings(folder: Path) -> OmniSettings:
    """Parse config.json (and generation_config.json for the ends of a reply). Raises CheckpointError."""
    config = Section.read(folder / "config.json")
    if (found := config.values.get("model_type")) != MODEL_TYPE:
        raise CheckpointError(f"{config.file}: model_type is {found!r}; these stages run {MODEL_TYPE!r} (Qwen2.5-Omni)")
    thinker, talker = config.section("thinker_config"), config.section("talker_config")
    return OmniSettings(
        tokens=_media_tokens(thinker, talker),
        thinker=_thinker_decoder(thinker.section("text_config")),
        thinker_eos=_thinker_eos(folder, thinker),
        tied_embeddings=thinker.flag("tie_word_embeddings", False),
        audio=_audio(thinker.section("audio_config")),
        vision=_vision(thinker.section("vision_config")),
        talker=_talker(talker),
        codec=_codec(config.section("token2wav_config").section("dit_config")),
        enable_audio_output=config.flag("enable_audio_output", True),
    )


def _media_tokens(thinker: Section, talker: Section) -> MediaTokens:
    """transformers reads vision_start_token_id of the Thinker's config, whose class gives it no default."""
    vision_end = thinker if "vision_end_token_id" in thinker else talker
    return MediaTokens(
        audio=thinker.integer("audio_token_index", 151646),
        image=thinker.integer("image_token_index", 151655),
        video=thinker.integer("video_token_index", 151656),
        audio_start=thinker.integer("audio_start_token_id", 151647),
        audio_end=thinker.integer("audio_end_token_id", 151648),
        vision_start=thinker.integer("vision_start_token_id"),
        vision_end=vision_end.integer("vision_end_token_id", 151653),
        position_id_per_seconds=thinker.integer("position_id_per_seconds", 25),
        seconds_per_chunk=thinker.integer("seconds_per_chunk", 2),
    )


def _thinker_eos(folder: Path, thinker: Section) -> frozenset[int]:
    """In transformers' order: the Thinker's config, its text config; then the checkpoint's generation_config.json."""
    for section in (thinker, thinker.section("text_config")):
        if "eos_token_id" in section:
            return frozenset(section.integers("eos_token_id"))
    file = folder / "generation_config.json"
    if file.is_file() and "eos_token_id" in (generation := Section.read(file)):
        return frozenset(generation.integers("eos_token_id"))
    raise CheckpointError(f"{thinker.file}: thinker_config.eos_token_id is missing, and {file.name} does not give it")


def _thinker_decoder(text: Section) -> DecoderSettings:
    hidden, heads = text.integer("hidden_size", 3584), text.integer("num_attention_heads", 28)
    return DecoderSettings(
        hidden_size=hidden,
        vocab_size=text.integer("vocab_size", 152064),
        layers=text.integer("num_hidden_layers", 28),
        heads=heads,
        kv_heads=text.integer("num_key_value_heads", 4),
        head_dim=text.integer("head_dim", hidden // heads),
        context_length=text.integer("max_position_embeddings", 32768),
    )


def _audio(audio: Section) -> AudioSettings:
    return AudioSettings(
        mel_bins=audio.integer("num_mel_bins", 128),
        n_window=audio.integer("n_window", 100),
        output_dim=audio.integer("output_dim", 3584),
    )


def _vision(vision: Section) -> VisionSettings:
    return VisionSettings(
        patch_size=vision.integer("patch_size", 14),
        temporal_patch_size=vision.integer("temporal_patch_size", 2),
        spatial_merge_size=vision.integer("spatial_merge_size", 2),
        in_channels=vision.integer("in_channels", 3),
        output_dim=vision.integer("out_hidden_size", 3584),
    )


def _talker(talker: Section) -> TalkerSettings:
    decoder = DecoderSettings(
        hidden_size=talker.integer("hidden_size", 3584),
        vocab_size=talker.integer("vocab_size", 8448),
        layers=talker.integer("num_hidden_layers", 28),
        heads=talker.integer("num_attention_heads", 28),
        kv_heads=talker.integer("num_key_value_heads", 4),
        head_dim=talker.integer("head_dim", 128),
        context_length=talker.integer("max_position_embeddings", 32768),
    )
    return TalkerSettings(
        decoder=decoder,
        embedding_size=talker.integer("embedding_size", 3584),
        text_start=talker.integer("tts_text_start_token_id", 151860),
        text_end=talker.integer("tts_text_end_token_id", 151861),
        text_pad=talker.integer("tts_text_pad_token_id", 151859),
        codec_pad=talker.integer("tts_codec_pad_token_id", 8292),
        codec_start=talker.integer("tts_codec_start_token_id", 8293),
        codec_end=talker.integer("tts_codec_end_token_id", 8294),
        codec_mask=talker.integer("tts_codec_mask_token_id", 8296),
    )


def _codec(dit: Section) -> CodecSettings:
    return CodecSettings(
        block_size=dit.integer("block_size", 24),
        repeats=dit.integer("repeats", 2),
        layers=dit.integer("num_hidden_layers", 22),
        look_ahead_layers=dit.integers("look_ahead_layers", (10,)),
        look_backward_layers=dit.integers("look_backward_layers", (0, 20)),
        num_embeds=dit.integer("num_embeds", 8193),
        mel_bins=dit.integer("mel_dim", 80),
        speaker_dim=dit.integer("enc_emb_dim", 192),
    )


def read_processor(folder: Path) -> tuple[PixelSettings, PixelSettings, MelSettings]:
    """(images, videos, mel), from processor_config.json (transformers 5, nested) or preprocessor_config.json (hub, flat).

    Also read where the hub has it: video_preprocessor_config.json. A video's limits are a frame's.
    """
    nested, flat = folder / "processor_config.json", folder / "preprocessor_config.json"
    if nested.is_file() and "image_processor" in (processor := Section.read(nested)):
        image, video, mel = (processor.section(k) for k in ("image_processor", "video_processor", "feature_extractor"))
    elif flat.is_file():
        image = mel = Section.read(flat)
        video = _video_section(folder, image)
    else:
        raise CheckpointError(f"{folder}: neither {nested.name} nor {flat.name}; is the download complete?")
    # limits: Qwen2VLImageProcessor.size; Qwen2_5OmniProcessor.videos_kwargs (128 to 768 tokens a frame)
    images = _pixels(image, 56 * 56, 28 * 28 * 1280)
    return images, _pixels(video, 128 * 28 * 28, 768 * 28 * 28), _mel(mel)


def _video_section(folder: Path, image: Section) -> Section:
    """The hub's own video file, else the flat file without its limits, which are those of still images."""
    file = folder / "video_preprocessor_config.json"
    if file.is_file():
        return Section.read(file)
    limits = ("min_pixels", "max_pixels", "size")
    return Section({k: v for k, v in image.values.items() if k not in limits}, image.file, image.path)


def _pixels(section: Section, min_pixels: int, max_pixels: int) -> PixelSettings:
    """``min_pixels`` and ``max_pixels`` win over ``size.{shortest,longest}_edge``, as in Qwen2VLImageProcessor."""
    size = section.section("size")
    return PixelSettings(
        min_pixels=section.integer("min_pixels", size.integer("shortest_edge", min_pixels)),
        max_pixels=section.integer("max_pixels", size.integer("longest_edge", max_pixels)),
        patch_size=section.integer("patch_size", 14),
        merge_size=section.integer("merge_size", 2),
        temporal_patch_size=section.integer("temporal_patch_size", 2),
        mean=section.rgb("image_mean", _CLIP_MEAN),
        std=section.rgb("image_std", _CLIP_STD),
    )


def _mel(section: Section) -> MelSettings:
    """WhisperFeatureExtractor's defaults, but 128 mel bins, which every Qwen2.5-Omni file states."""
    return MelSettings(
        mel_bins=section.integer("feature_size"),
        n_fft=section.integer("n_fft", 400),
        hop_length=section.integer("hop_length", 160),
        sample_rate=section.integer("sampling_rate", 16000),
    )
