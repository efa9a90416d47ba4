"""Building open_clip models from their configuration, without weights and without the network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch.func import functional_call

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.files import write_json, write_tensors
from clip_antidote.models.config_check import check_config
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.preprocess import check_preprocess
from clip_antidote.models.tokenizers import simple_tokenizer
from clip_antidote.models.weights import stored_weights
from clip_antidote.models.wrapped import Tokenizer


def check_supported(model_cfg: dict[str, Any]) -> None:
    """Refuses configurations that cannot be built here, before anything is downloaded or built.

    Raises:
        ModelError: The towers are not described, or in a way that makes no sense.
        UnsupportedError: A tower does not take prompts, would be fetched from elsewhere, or has unknown options.
    """
    vision, text = model_cfg.get("vision_cfg"), model_cfg.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ModelError(
            "the model configuration has no vision_cfg or no text_cfg; use the one open_clip wrote for it"
        )
    if "multimodal_cfg" in model_cfg or text.get("embed_cls"):
        raise UnsupportedError("CoCa models have a text tower that does not take class prompts; use a CLIP or SigLIP")
    if text.get("hf_model_name"):
        raise UnsupportedError(
            f"the text tower {text['hf_model_name']} comes from transformers and does not take class "
            "prompts here; use a model with open_clip's own text transformer"
        )
    if ":" in str(vision.get("timm_model_name") or ""):  # timm would fetch it from a hub or a folder
        raise UnsupportedError(
            f"the vision tower {vision['timm_model_name']} is not one of timm's own; use a model with one of those"
        )
    check_config(model_cfg)


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
        preprocess_cfg: `mean`, `std`, `resize_mode`, `interpolation`; open_clip's defaults where missing.
        tokenizer_factory: Makes the tokenizer; open_clip's simple tokenizer by default.
        quick_gelu: Overrides the activation of the configuration.

    Raises:
        ModelError: The configuration does not describe a model, or a normalization that makes no sense.
        UnsupportedError: It describes one that this package cannot treat.
    """
    check_supported(model_cfg)
    kept = copy.deepcopy(model_cfg)
    if quick_gelu is not None:
        kept["quick_gelu"] = quick_gelu
    cfg = copy.deepcopy(kept)
    factory = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
    cfg["vision_cfg"]["timm_model_pretrained"] = False
    try:
        model = factory(**cfg)
    except Exception as error:  # timm and open_clip fail in many ways on odd values
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"the model configuration does not describe an open_clip model: {reason}") from error
    model.eval()
    if name := cfg["vision_cfg"].get("timm_model_name"):
        _try_image_tower(model, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is assumed is said where a model is loaded
        preprocess = check_preprocess(preprocess_cfg or {}, "the model configuration")
    context_length = cfg["text_cfg"].get("context_length", 77)
    encoder = OpenCLIPEncoder(model, tokenizer_factory or partial(simple_tokenizer, context_length), **preprocess)
    encoder.model_cfg = kept
    return encoder


def _try_image_tower(model: open_clip.CLIP | open_clip.CustomTextCLIP, name: str) -> None:
    """Puts one black image through an image tower of timm; its shapes alone, where that tells that it fits.

    Shapes cost nothing at any size. A tower may fail on them for another reason, so the image has the last word.

    Raises:
        ModelError: It fails: open_clip puts a projection behind some towers that is not as wide as their features.
    """
    size: Any = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    tensors = {**dict(model.visual.named_parameters()), **dict(model.visual.named_buffers())}
    with suppress(Exception), torch.no_grad():
        shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
        functional_call(model.visual, shapes, (torch.zeros(1, 3, height, width, device="meta"),))
        return
    try:
        with torch.no_grad():
            model.encode_image(torch.zeros(1, 3, height, width))
    except Exception as error:  # towers of timm fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the image tower {name} cannot be used with this vision_cfg: {reason}; change timm_pool or timm_proj, "
            "or take another tower"
        ) from error


def save_open_clip(
    encoder: OpenCLIPEncoder, model_cfg: dict[str, Any] | None, folder: Path, *, half: bool = False
) -> None:
    """Writes open_clip's own folder layout: `open_clip_config.json` and `open_clip_model.safetensors`.

    Args:
        encoder: The model.
        model_cfg: Its configuration, as given to `build_open_clip`; None for the one it was built with.
        folder: Existing folder to write to.
        half: Whether weights are stored in fp16.

    Raises:
        ModelError: A weight is not finite, or too large for fp16; nothing is written.
    """
    write_tensors(folder / "open_clip_model.safetensors", stored_weights(encoder.model, half=half))
    config = {"model_cfg": model_cfg or encoder.model_cfg, "preprocess_cfg": encoder.preprocess_cfg}
    write_json(folder / "open_clip_config.json", config)
