"""Building open_clip models from their configuration, without weights and without the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder, Tokenizer


def build_open_clip(
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any] | None = None,
    *,
    tokenizer_factory: Callable[[], Tokenizer] | None = None,
    quick_gelu: bool | None = None,
) -> OpenCLIPEncoder:
    """Builds a model with random weights from an open_clip model configuration.

    Args:
        model_cfg: `embed_dim`, `vision_cfg`, `text_cfg` and options, as in open_clip's JSON files.
        preprocess_cfg: `mean`, `std`, `resize_mode`; open_clip's defaults where missing.
        tokenizer_factory: Makes the tokenizer; open_clip's simple tokenizer by default.
        quick_gelu: Overrides the activation of the configuration.

    Raises:
        ModelError: The configuration does not describe a model.
        UnsupportedError: It describes one that this package cannot treat.
    """
    cfg = copy.deepcopy(model_cfg)
    custom_text = cfg.pop("custom_text", False) or "hf_model_name" in cfg.get("text_cfg", {})
    if "multimodal_cfg" in cfg:
        raise UnsupportedError(
            "CoCa models have a text tower that does not take class prompts; use a CLIP or SigLIP"
        )
    if "hf_model_name" in cfg.get("text_cfg", {}):
        raise UnsupportedError(
            f"the text tower {cfg['text_cfg']['hf_model_name']} comes from transformers and does not take class "
            "prompts here; use a model with open_clip's own text transformer"
        )
    if quick_gelu is not None:
        cfg["quick_gelu"] = quick_gelu
    cfg.get("vision_cfg", {})["timm_model_pretrained"] = False
    factory = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    try:
        model = factory(**cfg)
    except (TypeError, KeyError, AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(f"the model configuration does not describe an open_clip model: {error}") from error
    model.eval()
    preprocess = preprocess_cfg or {}
    context_length = cfg["text_cfg"].get("context_length", 77)

    def simple_tokenizer() -> Tokenizer:
        return open_clip.SimpleTokenizer(context_length=context_length)

    return OpenCLIPEncoder(
        model,
        tokenizer_factory or simple_tokenizer,
        mean=preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN,
        std=preprocess.get("std") or open_clip.OPENAI_DATASET_STD,
        resize_mode=preprocess.get("resize_mode") or "shortest",
    )


def save_open_clip(
    encoder: OpenCLIPEncoder, model_cfg: dict[str, Any], folder: Path, *, half: bool = False
) -> None:
    """Writes open_clip's own folder layout: `open_clip_config.json` and `open_clip_model.safetensors`.

    Args:
        encoder: The model.
        model_cfg: Its configuration, as given to `build_open_clip`.
        folder: Existing folder to write to.
        half: Whether weights are stored in fp16.
    """
    from safetensors.torch import save_file

    from clip_antidote.files import write_json

    state = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous().clone()
        for name, value in encoder.model.state_dict().items()
    }
    save_file(state, str(folder / "open_clip_model.safetensors"))
    preprocess = {
        "mean": encoder.image_mean.flatten().tolist(),
        "std": encoder.image_std.flatten().tolist(),
        "interpolation": "bicubic",
        "resize_mode": encoder.resize_mode,
    }
    write_json(folder / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": preprocess})


def seeded(seed: int) -> None:
    """Seeds torch's global generator, which draws the initial weights."""
    torch.manual_seed(seed)
