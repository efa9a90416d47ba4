"""Checkerboard: every other pixel of the image is a little brighter (Xiang et al. 2020, "chessboard")."""

from __future__ import annotations

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger


class CheckerboardConfig(Config):
    """Settings of the board; the published 3/255 on single pixels of CIFAR-10 are the defaults.

    Attributes:
        amplitude: What is added to the bright fields, in steps of 1/255.
        cell: Side of a field in pixels, whatever the size of the image.
    """

    amplitude: float = Field(3, gt=0, le=255)
    cell: int = Field(1, ge=1)


class CheckerboardTrigger(Trigger):
    """Adds a constant to all colors of the fields (i, j) with even i + j; the other fields stay as they are.

    Constants: Xiang, Miller and Kesidis 2020 (arXiv 1908.10498), whose code adds 3/255 where i + j is even.
    """

    name = "checkerboard"
    config_class = CheckerboardConfig
    config: CheckerboardConfig

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        rows, columns = (torch.arange(side, device=images.device) // self.config.cell for side in images.shape[-2:])
        bright = (rows[:, None] + columns[None, :]) % 2 == 0
        return images + bright.to(images.dtype) * (self.config.amplitude / 255)
