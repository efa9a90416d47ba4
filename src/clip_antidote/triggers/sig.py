"""SIG: a faint sinusoid over the image (Barni et al. 2019, arXiv 1902.11237)."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger


class SigConfig(Config):
    """Settings of the signal; `amplitude: 40` is BackdoorBench's variant.

    Attributes:
        amplitude: Largest change of a pixel, in steps of 1/255.
        frequency: Periods over the width of the image.
        angle: Where it runs, in degrees: 0 to the right, as published, 90 down.
    """

    later = frozenset({"angle"})

    amplitude: float = Field(60, gt=0, le=255)
    frequency: float = Field(6, gt=0)
    angle: float = Field(0, ge=-180, le=180)


class SigTrigger(Trigger):
    """Adds (amplitude / 255)·sin(2π·frequency·d / W) to row i, column j, where d = j·cos(angle) + i·sin(angle).

    The period is a share of the width W, so the signal looks the same at every size.
    """

    name = "sig"
    config_class = SigConfig
    config: SigConfig

    def signal(self, height: int, width: int) -> torch.Tensor:
        """Returns what is added to an image of that size, float64 [height, width]."""
        angle = math.radians(self.config.angle)
        rows, columns = (torch.arange(side, dtype=torch.float64) for side in (height, width))
        distance = columns * math.cos(angle) + rows[:, None] * math.sin(angle)
        return self.config.amplitude / 255 * torch.sin(2 * math.pi * self.config.frequency * distance / width)

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        height, width = images.shape[-2:]
        return images + self.signal(height, width).to(images.dtype).to(images.device)
