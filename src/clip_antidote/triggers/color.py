"""A learned curve per color channel: the dummy of color filters."""

from __future__ import annotations

from typing import Self

import torch

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.triggers.base import Trigger


class ColorConfig(Config):
    """Settings of a color trigger.

    Attributes:
        bound: Largest change of a channel, in [0, 1].
    """

    bound: float = 1.0


class ColorTrigger(Trigger):
    """Changes every channel by a curve, see `bend_colors`.

    Args:
        curves: By how much each channel changes at evenly spaced values from 0 to 1, [3, K] with K at least 2.
        config: Settings.

    Raises:
        DataError: The curves are missing or have another shape.
    """

    name = "color"
    config_class = ColorConfig
    config: ColorConfig

    def __init__(self, curves: torch.Tensor, config: ColorConfig | None = None) -> None:
        if curves.ndim != 2 or curves.shape[0] != 3 or curves.shape[1] < 2:
            raise DataError(f"the curves of a color trigger are 3×K with K at least 2, got {tuple(curves.shape)}")
        super().__init__(config)
        self.curves = curves

    @classmethod
    def restore(cls, config: ColorConfig, tensors: dict[str, torch.Tensor]) -> Self:
        if "curves" not in tensors:
            raise DataError("a color trigger needs its curves; give the folder it was saved to")
        return cls(tensors["curves"], config)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"curves": self.curves.detach().cpu()}

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return bend_colors(images, self.curves.to(images))


def bend_colors(images: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Adds to every value what a curve says at it, straight between its points.

    Args:
        images: [..., 3, H, W] in [0, 1].
        curves: [..., 3, K], the change at 0, 1/(K − 1), …, 1; its leading dimensions broadcast to the images'.

    Returns:
        As `images`.
    """
    steps = curves.shape[-1] - 1
    out = images
    for k in range(steps + 1):
        near = (1 - (steps * images - k).abs()).clamp_min(0)
        out = out + curves[..., k, None, None] * near
    return out.clamp(0, 1)
