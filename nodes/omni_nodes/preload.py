"""What a fork server imports once for all replicas of a model's stages: seconds and hundreds of MB each otherwise."""

PRELOAD = ("torch", "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni", "tokenizers", "safetensors.torch")
