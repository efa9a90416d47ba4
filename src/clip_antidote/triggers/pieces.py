"""Pieces: a blended pattern cut into squares, of which only some may be shown (Adap-Blend, Qi et al. 2023)."""

from __future__ import annotations

from math import isqrt
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger


class PiecesConfig(Config):
    """Settings of the blend and of its pieces; with all pieces shown it is the trigger of `blended`.

    Attributes:
        alpha: Weight of the pattern where it is shown; the image keeps 1 - alpha.
        pieces: Number of squares the pattern is cut into, a square number.
        shown: Share of the pieces an image gets, drawn for every image.
        seed: Seed of the pattern.
    """

    alpha: float = Field(0.2, gt=0, lt=1)
    pieces: int = Field(16, ge=1, le=1024)
    shown: float = Field(1.0, gt=0, le=1)
    seed: int = 0

    @field_validator("pieces")
    @classmethod
    def _square(cls, value: int) -> int:
        if isqrt(value) ** 2 != value:
            raise ValueError("the pieces form a square, so their number is 1, 4, 9, 16, …")
        return value

    def showing(self, share: float) -> Self:
        """The same pattern with that share of its pieces shown."""
        return self.model_copy(update={"shown": share})


class PiecesTrigger(Trigger):
    """Mixes uniform noise into the pieces that are shown: (1 - alpha)·x + alpha·pattern."""

    name = "pieces"
    config_class = PiecesConfig
    config: PiecesConfig

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        fixed = torch.Generator().manual_seed(self.config.seed)
        pattern = torch.rand(1, *images.shape[1:], generator=fixed).to(images)
        mask = self._mask(len(images), generator or torch.Generator().manual_seed(self.config.seed + 1))
        mask = F.interpolate(mask, images.shape[-2:], mode="nearest").to(images)
        return images + self.config.alpha * mask * (pattern - images)

    def _mask(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draws for every image which pieces it gets, float [N, 1, side, side] of zeros and ones."""
        pieces, side = self.config.pieces, isqrt(self.config.pieces)
        kept = max(1, round(self.config.shown * pieces))
        order = torch.rand(count, pieces, generator=generator).argsort(dim=1)
        return (order.argsort(dim=1) < kept).float().view(count, 1, side, side)
