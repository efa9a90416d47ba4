"""A learned additive perturbation, bounded in every pixel: the dummy of full-image triggers."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.triggers.base import Trigger


class AdditiveConfig(Config):
    """Settings of an additive trigger.

    Attributes:
        bound: Largest change of a pixel, in [0, 1].
    """

    bound: float = 1.0


class AdditiveTrigger(Trigger):
    """Adds a fixed delta [3, S, S]; it is resized for images of another size.

    Raises:
        DataError: The delta is missing or has another shape.
    """

    name = "additive"
    config_class = AdditiveConfig
    config: AdditiveConfig

    def __init__(self, delta: torch.Tensor, config: AdditiveConfig | None = None) -> None:
        if delta.ndim != 3 or delta.shape[0] != 3:
            raise DataError(f"the delta of an additive trigger is 3×H×W, got {tuple(delta.shape)}")
        super().__init__(config)
        self.delta = delta

    @classmethod
    def restore(cls, config: AdditiveConfig, tensors: dict[str, torch.Tensor]) -> Self:
        if "delta" not in tensors:
            raise DataError("an additive trigger needs its delta; give the folder it was saved to")
        return cls(tensors["delta"], config)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"delta": self.delta.detach().cpu()}

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return images + resize_to(self.delta, images)


def resize_to(tensor: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Resizes a learned tensor [K, S, S] to the images' size, bilinear, as [1, K, H, W]."""
    tensor = tensor[None].to(images)
    if tensor.shape[-2:] == images.shape[-2:]:
        return tensor
    return F.interpolate(tensor, images.shape[-2:], mode="bilinear", align_corners=False)
