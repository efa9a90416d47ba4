"""Patches: several squares of noise at once, or one of them drawn for every image (Adap-Patch, Qi et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Self, get_args

import torch
from pydantic import Field, model_validator

from clip_antidote.config import Config
from clip_antidote.triggers.badnet import FixedPosition, place, scaled_side
from clip_antidote.triggers.base import Trigger

Opacity = Annotated[float, Field(gt=0, le=1)]

CORNERS: tuple[FixedPosition, ...] = ("top-left", "top-right", "bottom-left", "bottom-right")


class PatchesConfig(Config):
    """Settings of the patches.

    Attributes:
        patch: Side of a patch in pixels of a 224-px image; scales with the image.
        positions: Where patches stand; the noise of a patch depends on its place alone.
        opacities: Weight of each patch where it stands; the image keeps the rest.
        shown: How many of the patches an image gets, drawn for every image; all where None.
        seed: Seed of the noise.
    """

    patch: int = Field(56, ge=1, le=224)
    positions: tuple[FixedPosition, ...] = Field(CORNERS, min_length=1)
    opacities: tuple[Opacity, ...] = (1.0, 1.0, 1.0, 1.0)
    shown: int | None = Field(None, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if len(self.positions) != len(self.opacities):
            raise ValueError("there must be as many opacities as positions")
        if self.shown is not None and self.shown > len(self.positions):
            raise ValueError("shown cannot be more than there are positions")
        return self


class PatchesTrigger(Trigger):
    """Mixes squares of noise into the image."""

    name = "patches"
    config_class = PatchesConfig
    config: PatchesConfig

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        config, (height, width) = self.config, images.shape[-2:]
        side = scaled_side(config.patch, width)
        noise = torch.Generator().manual_seed(config.seed)
        known: tuple[FixedPosition, ...] = get_args(FixedPosition)
        patterns = dict(zip(known, torch.rand(len(known), 3, side, side, generator=noise).to(images), strict=True))
        drawn = self._drawn(len(images), generator or torch.Generator().manual_seed(config.seed + 1)).to(images)
        out = images.clone()
        for number, (position, opacity) in enumerate(zip(config.positions, config.opacities, strict=True)):
            row, column = place(position, height - side, width - side)
            inside = out[:, :, row : row + side, column : column + side]
            inside += opacity * drawn[:, number, None, None, None] * (patterns[position] - inside)
        return out

    def _drawn(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Says which patches every image gets, float [N, K] of zeros and ones."""
        patches = len(self.config.positions)
        order = torch.rand(count, patches, generator=generator).argsort(dim=1)
        return (order.argsort(dim=1) < (self.config.shown or patches)).float()
