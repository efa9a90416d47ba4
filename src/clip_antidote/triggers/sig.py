"""SIG: a faint sinusoid over the columns of the image (Barni et al. 2019, arXiv 1902.11237)."""

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
    """

    amplitude: float = Field(60, gt=0, le=255)
    frequency: float = Field(6, gt=0)


class SigTrigger(Trigger):
    """Adds (amplitude / 255)·sin(2π·frequency·j / W) to every pixel of column j = 0 … W - 1.

    The period is a share of the width, so the signal looks the same at every size.
    """

    name = "sig"
    config_class = SigConfig
    config: SigConfig

    def signal(self, width: int) -> torch.Tensor:
        """Returns what is added to the columns of an image of that width, float64 [width]."""
        columns = torch.arange(width, dtype=torch.float64)
        wave = torch.sin(2 * math.pi * self.config.frequency * columns / width)
        return self.config.amplitude / 255 * wave

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return images + self.signal(images.shape[-1]).to(images.dtype).to(images.device)
