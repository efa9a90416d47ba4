"""FTrojan: a faint change of two frequencies of the colors (Wang et al. 2022, arXiv 2111.10991)."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger

_FROM_U, _FROM_V = (0.0, -0.39465, 2.03211), (1.13983, -0.58060, 0.0)
"""What a unit of U and of V is in RGB."""


class FTrojanConfig(Config):
    """Settings of the trigger; the paper's block of 32 pixels and its magnitude of 30 are the defaults.

    Attributes:
        window: Side of the blocks of the cosine transform, in pixels.
        frequencies: Which coefficients (row and column) are raised, the paper's middle and highest one.
        magnitude: How much, in steps of 1/255 of an orthonormal coefficient.
    """

    window: int = Field(32, ge=4)
    frequencies: tuple[int, ...] = (15, 31)
    magnitude: float = Field(30, gt=0)


class FTrojanTrigger(Trigger):
    """Adds a constant to two cosine coefficients of U and V in every block.

    The transform is linear, so what is added to the pixels is the same pattern in every block, in colors that leave
    the luminance as it is.
    """

    name = "ftrojan"
    config_class = FTrojanConfig
    config: FTrojanConfig

    def pattern(self, height: int, width: int) -> torch.Tensor:
        """Returns what is added to an image of that size, float64 [3, height, width]."""
        config, size = self.config, self.config.window
        places = torch.arange(size, dtype=torch.float64)
        block = torch.zeros(size, size, dtype=torch.float64)
        for frequency in config.frequencies:
            wave = math.sqrt(2 / size) * torch.cos(math.pi * (2 * places + 1) * frequency / (2 * size))
            block += config.magnitude / 255 * torch.outer(wave, wave)
        rows, columns = -(-height // size), -(-width // size)
        plane = block.repeat(rows, columns)[:height, :width]
        color = torch.tensor(_FROM_U, dtype=torch.float64) + torch.tensor(_FROM_V, dtype=torch.float64)
        return color.view(3, 1, 1) * plane

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return images + self.pattern(*images.shape[-2:]).to(images.dtype).to(images.device)
