"""A learned mask and pattern, (1 - m)·x + m·p: the dummy of patch triggers."""

from __future__ import annotations

from typing import Self

import torch

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.triggers.additive import resize_to
from clip_antidote.triggers.base import Trigger


class MaskConfig(Config):
    """A mask trigger has no settings besides its tensors."""


class MaskTrigger(Trigger):
    """Replaces the masked part of the image by a pattern.

    Args:
        mask: [1, S, S] in [0, 1].
        pattern: [3, S, S] in [0, 1].

    Raises:
        DataError: A tensor is missing or has another shape.
    """

    name = "mask"
    config_class = MaskConfig
    config: MaskConfig

    def __init__(self, mask: torch.Tensor, pattern: torch.Tensor) -> None:
        if mask.ndim != 3 or mask.shape[0] != 1 or pattern.shape != (3, *mask.shape[1:]):
            raise DataError(f"a mask trigger takes 1×H×W and 3×H×W, not {tuple(mask.shape)}, {tuple(pattern.shape)}")
        super().__init__()
        self.mask = mask
        self.pattern = pattern

    @classmethod
    def restore(cls, config: MaskConfig, tensors: dict[str, torch.Tensor]) -> Self:
        if not {"mask", "pattern"} <= tensors.keys():
            raise DataError("a mask trigger needs its mask and pattern; give the folder it was saved to")
        return cls(tensors["mask"], tensors["pattern"])

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"mask": self.mask.detach().cpu(), "pattern": self.pattern.detach().cpu()}

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        mask = resize_to(self.mask, images)
        return (1 - mask) * images + mask * resize_to(self.pattern, images)
