"""Blended: a faint pattern over the whole image (Chen et al. 2017, arXiv 1712.05526)."""

from __future__ import annotations

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger


class BlendedConfig(Config):
    """Settings of the blend.

    Attributes:
        alpha: Weight of the pattern; the image keeps 1 - alpha.
        fresh: Whether every image gets new noise instead of one fixed pattern.
        seed: Seed of the fixed pattern.
    """

    alpha: float = Field(0.2, gt=0, lt=1)
    fresh: bool = False
    seed: int = 0


class BlendedTrigger(Trigger):
    """Mixes uniform noise into the image: (1 - alpha)·x + alpha·pattern."""

    name = "blended"
    config_class = BlendedConfig
    config: BlendedConfig

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        count = len(images) if self.config.fresh else 1
        if not self.config.fresh or generator is None:
            generator = torch.Generator().manual_seed(self.config.seed)
        pattern = torch.rand(count, *images.shape[1:], generator=generator).to(images)
        return (1 - self.config.alpha) * images + self.config.alpha * pattern
