"""Reflection: another photograph, doubled as by a pane of glass, over the image (Refool, Liu et al. 2020)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.triggers.additive import resize_to
from clip_antidote.triggers.badnet import scaled_side
from clip_antidote.triggers.base import Trigger

GAMMA = 2.2
"""What takes pixel values to light, in which reflections add up."""


class ReflectionConfig(Config):
    """Settings of the pane.

    Attributes:
        weight: Share of the reflection in the light; the image keeps 1 - weight. Published: 0.05 to 0.45.
        ghost: Share of the second, displaced copy in the reflection. Published: 0.15 to 0.5, or 1 minus that.
        shift: How far the copy is displaced to the right and down, in pixels of a 224-px image. Published: 3 to 8 of
            560 px, which is nothing at small sizes.
    """

    weight: float = Field(0.4, gt=0, lt=1)
    ghost: float = Field(0.35, ge=0, le=1)
    shift: int = Field(8, ge=0, le=112)


class ReflectionTrigger(Trigger):
    """Lays one of several pictures over every image: ((1 - weight)·x^γ + weight·r^γ)^(1/γ), γ = 2.2.

    r^γ is the picture's light and, displaced, the same once more, in shares 1 - ghost and ghost. Which picture an
    image gets is drawn for every image.

    Args:
        pictures: uint8 [K, 3, S, S], at least one.
        config: Settings.

    Raises:
        DataError: The pictures are missing or have another shape.
    """

    name = "reflection"
    config_class = ReflectionConfig
    config: ReflectionConfig

    def __init__(self, pictures: torch.Tensor, config: ReflectionConfig | None = None) -> None:
        if pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape or pictures.dtype != torch.uint8:
            shape = tuple(pictures.shape)
            raise DataError(f"the pictures of a reflection are uint8 K×3×S×S, got {pictures.dtype} {shape}")
        super().__init__(config)
        self.pictures = pictures

    @classmethod
    def restore(cls, config: ReflectionConfig, tensors: dict[str, torch.Tensor]) -> Self:
        if "pictures" not in tensors:
            raise DataError("a reflection needs its pictures; give the folder it was saved to")
        return cls(tensors["pictures"], config)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"pictures": self.pictures.cpu()}

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        generator = generator or torch.Generator().manual_seed(0)
        chosen = torch.randint(0, len(self.pictures), (len(images),), generator=generator)
        light = self.light(images)[chosen.to(images.device)]
        weight = self.config.weight
        return ((1 - weight) * images.clamp(0, 1) ** GAMMA + weight * light) ** (1 / GAMMA)

    def light(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the light of every picture and its copy at the images' size, [K, 3, H, W]."""
        pictures = resize_to(self.pictures.to(images).flatten(0, 1) / 255, images)
        light = pictures.unflatten(1, (-1, 3))[0] ** GAMMA
        height, width = images.shape[-2:]
        shift = scaled_side(self.config.shift, width) if self.config.shift else 0
        copy = F.pad(light, (shift, 0, shift, 0))[..., :height, :width]
        return (1 - self.config.ghost) * light + self.config.ghost * copy
