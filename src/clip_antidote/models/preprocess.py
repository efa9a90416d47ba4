"""What a model expects its images to look like, checked, and never assumed silently."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import open_clip

from clip_antidote.errors import ModelError, UnsupportedError

_LEAST_DEVIATION, _LARGEST = 1e-3, 1e3


def check_preprocess(preprocess_cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Checks `mean`, `std`, `resize_mode` and `interpolation`, and warns where they are assumed.

    Args:
        preprocess_cfg: As in open_clip's `preprocess_cfg` or its table of pretrained tags.
        where: Names the model in messages.

    Returns:
        All four settings, means and deviations as lists of three numbers.

    Raises:
        ModelError: A value makes no sense.
        UnsupportedError: Images are resized in a way that this package does not do.
    """
    if preprocess_cfg.get("mean") is None or preprocess_cfg.get("std") is None:
        warnings.warn(
            f"{where} does not say how its images are normalized, so OpenAI's mean and deviation are assumed",
            stacklevel=3,
        )
    mode = preprocess_cfg.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise UnsupportedError(
            f"{where} asks for the resize mode {mode!r:.40}; only 'shortest' and 'squash' are supported"
        )
    interpolation = preprocess_cfg.get("interpolation") or "bicubic"
    if interpolation not in ("bicubic", "random"):
        warnings.warn(
            f"{where} was trained with {interpolation!s:.40} resizing, but images are resized with bicubic here, "
            "which may cost a little accuracy",
            stacklevel=3,
        )
    mean = _triple(preprocess_cfg.get("mean"), open_clip.OPENAI_DATASET_MEAN, "mean", where)
    std = _triple(preprocess_cfg.get("std"), open_clip.OPENAI_DATASET_STD, "std", where)
    if min(std) < _LEAST_DEVIATION or max(map(abs, (*mean, *std))) > _LARGEST:
        raise ModelError(
            f"{where} normalizes with a mean of {mean[0]:g} and a deviation of {min(std):g}, which no image has; "
            "correct preprocess_cfg.mean and preprocess_cfg.std"
        )
    return {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": mode}


def arch_preprocess(arch: str) -> dict[str, Any]:
    """Returns the preprocessing that the published weights of an architecture agree on.

    A checkpoint file does not say its own. Where the published weights differ, the most common
    setting is taken and a warning says so; architectures without published weights get OpenAI's.
    """
    keys = ("mean", "std", "interpolation", "resize_mode")
    settings = []
    for tag in open_clip.list_pretrained_tags_by_model(arch):
        cfg = open_clip.get_pretrained_cfg(arch, tag)
        settings.append(tuple(cfg.get(key) for key in keys))
    if not settings:
        return {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    chosen = max(settings, key=settings.count)
    if len(set(settings)) > 1:
        warnings.warn(
            f"published {arch} weights differ in how images are prepared, and a checkpoint file does not say; "
            f"mean {chosen[0][0]:.3f} and resize mode '{chosen[3]}' are assumed (a folder with "
            "open_clip_config.json states them)",
            stacklevel=3,
        )
    return dict(zip(keys, chosen, strict=True))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LARGEST <= value <= _LARGEST or (isinstance(value, float) and math.isfinite(value))


def _triple(value: Any, default: tuple[float, ...], name: str, where: str) -> list[float]:
    if value is None:
        value = default
    if isinstance(value, int | float):
        value = (value,) * 3
    good = isinstance(value, list | tuple) and len(value) == 3
    if not good or not all(_is_number(v) for v in value):
        raise ModelError(f"{where} has {name} {value!r:.60} for its images; it must be three numbers")
    return [float(v) for v in value]
