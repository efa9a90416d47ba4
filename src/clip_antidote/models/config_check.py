"""What an open_clip configuration may say: checked before anything is built, since it may be untrusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clip_antidote.errors import ModelError, UnsupportedError

_SIZES: dict[str, dict[str, int]] = {
    "model_cfg": {"embed_dim": 16_384},
    "vision_cfg": {
        "width": 16_384,
        "head_width": 16_384,
        "image_size": 4096,
        "patch_size": 4096,
        "attn_pooler_queries": 4096,
        "attn_pooler_heads": 256,
    },
    "text_cfg": {"context_length": 4096, "vocab_size": 4_000_000, "width": 16_384, "heads": 256, "layers": 512},
}
"""Whole numbers from 1 and the largest of each: several times those of the largest models there are."""

_NUMBERS = {
    "mlp_ratio": (0.01, 64.0),
    "ls_init_value": (-10.0, 10.0),
    "patch_dropout": (0.0, 0.99),
    "timm_drop": (0.0, 0.99),
    "timm_drop_path": (0.0, 0.99),
    "init_logit_scale": (-20.0, 20.0),
    "init_logit_bias": (-1000.0, 1000.0),
}
_FLAGS = frozenset(
    (
        *("quick_gelu", "custom_text", "nonscalar_logit_scale", "attentional_pool", "no_ln_pre", "qk_norm"),
        *("final_ln_after_pool", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
        *("timm_proj_bias", "embed_cls", "no_causal_mask", "proj_bias"),
    )
)
_CHOICES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("vision_cfg", "pool_type"): ("tok", "avg"),
    ("text_cfg", "pool_type"): ("argmax", "eos", "first", "last"),
    ("text_cfg", "proj_type"): ("linear", "none"),
    ("vision_cfg", "output_tokens"): (False,),
    ("text_cfg", "output_tokens"): (False,),
    ("model_cfg", "output_dict"): (False,),
    ("model_cfg", "cast_dtype"): (),
}
_OPTIONS = {"act_kwargs": ("approximate",), "norm_kwargs": ("eps", "elementwise_affine", "bias")}
_MOST_PARAMETERS = 20_000_000_000


def check_config(model_cfg: Mapping[str, Any]) -> None:
    """Refuses sizes, types and options that no model has, before memory is taken for them.

    Raises:
        ModelError: A value makes no sense, or values do not fit together.
        UnsupportedError: An option is not known to be treated right.
    """
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    for part, values in (("model_cfg", model_cfg), ("vision_cfg", vision), ("text_cfg", text)):
        for name, value in values.items():
            if value is not None:
                _check_value(part, name, value)
    _whole(model_cfg, "model_cfg", "embed_dim")
    _check_text_heads(text)
    if not vision.get("timm_model_name"):
        _check_vision_heads(vision)
    count = rough_parameters(model_cfg)
    if count > _MOST_PARAMETERS:
        raise ModelError(f"the model configuration describes about {count:.0e} parameters; correct its sizes")


def _check_value(part: str, name: str, value: Any) -> None:
    where = f"{part}.{name}" if part != "model_cfg" else name
    if (part, name) in _CHOICES and value not in _CHOICES[part, name]:
        raise UnsupportedError(f"the model configuration sets {where} to {value!r:.60}, which is not supported")
    if name in _SIZES[part]:
        most, sides = (
            _SIZES[part][name],
            value if name == "image_size" and isinstance(value, list | tuple) else [value],
        )
        if len(sides) not in (1, 2) or not all(type(side) is int and 1 <= side <= most for side in sides):
            raise ModelError(f"the model configuration has {where} {value!r:.60}; it must be from 1 to {most}")
    elif name in _NUMBERS:
        least, most_of = _NUMBERS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most_of:
            raise ModelError(
                f"the model configuration has {where} {value!r:.60}; it must be from {least} to {most_of}"
            )
    elif name in _FLAGS and not isinstance(value, bool):
        raise ModelError(f"the model configuration has {where} {value!r:.60}; it must be true or false")
    elif name in _OPTIONS:
        odd = not isinstance(value, dict) or not set(value) <= set(_OPTIONS[name])
        if odd or not all(_plain_option(key, item) for key, item in value.items()):
            raise UnsupportedError(f"the model configuration sets {where} to {value!r:.60}, which is not supported")


def _plain_option(name: str, value: Any) -> bool:
    if name == "eps":
        return isinstance(value, float) and 0 < value <= 1
    return value in ("none", "tanh") if name == "approximate" else isinstance(value, bool)


def _whole(values: Mapping[str, Any], part: str, name: str, default: int | None = None) -> int:
    value = values.get(name, default)
    if type(value) is not int:
        raise ModelError(f"the model configuration has {part}.{name} {value!r:.60}; it must be a whole number")
    return value


def _check_text_heads(text: Mapping[str, Any]) -> None:
    width, heads = _whole(text, "text_cfg", "width", 512), _whole(text, "text_cfg", "heads", 8)
    _whole(text, "text_cfg", "layers", 12)
    _whole(text, "text_cfg", "vocab_size", 49408)
    if _whole(text, "text_cfg", "context_length", 77) < 3:
        raise ModelError("the model configuration has text_cfg.context_length below 3, which holds no class name")
    if width % heads:
        raise ModelError(
            f"the model configuration has a text width of {width}, which its {heads} heads do not divide"
        )


def _check_vision_heads(vision: Mapping[str, Any]) -> None:
    width, head = _whole(vision, "vision_cfg", "width", 768), _whole(vision, "vision_cfg", "head_width", 64)
    layers, size = vision.get("layers", 12), vision.get("image_size", 224)
    stages = layers if isinstance(layers, list | tuple) else [layers]
    if len(stages) not in (1, 4) or not all(type(stage) is int and 1 <= stage <= 512 for stage in stages):
        raise ModelError(
            f"the model configuration has vision_cfg.layers {layers!r:.60}; it must be a number from 1 to 512, or "
            "four for a ResNet"
        )
    residual = isinstance(layers, list | tuple)
    if residual and len(stages) != 4:
        raise ModelError("the model configuration has vision_cfg.layers with one number; a ResNet has four")
    whole = 32 * width if residual else width
    heads = whole // head
    if not heads or whole % heads:
        raise ModelError(
            f"the model configuration has a vision width of {width} that head_width {head} does not divide"
        )
    patch = 32 if residual else _whole(vision, "vision_cfg", "patch_size", 16)
    least = min(size) if isinstance(size, list | tuple) else size
    if type(least) is not int or least < patch:
        raise ModelError(f"the model configuration has images of {size!r:.60} pixels, under its patch of {patch}")


def rough_parameters(model_cfg: Mapping[str, Any]) -> float:
    """About how many parameters a configuration describes, at most; a tower of timm counts for nothing.

    Args:
        model_cfg: One that `check_config` took.
    """
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    out = float(model_cfg["embed_dim"])
    width = text.get("width", 512)
    count = width * (text.get("vocab_size", 49408) + text.get("context_length", 77) + out)
    count += _blocks(width, text.get("layers", 12), text)
    layers = vision.get("layers", 12)
    if vision.get("timm_model_name") or not isinstance(layers, int):
        return count
    width, patch = vision.get("width", 768), vision.get("patch_size", 16)
    size = vision.get("image_size", 224)
    tokens = (math.prod(size) if isinstance(size, list | tuple) else size**2) / patch**2
    return count + _blocks(width, layers, vision) + width * (3 * patch**2 + tokens + out)


def _blocks(width: int, layers: int, tower: Mapping[str, Any]) -> float:
    return layers * width**2 * (4 + 2 * (tower.get("mlp_ratio") or 4.0))
