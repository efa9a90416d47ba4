"""A learned patch, with or without a trigger word in the text: the trigger of TrojVQA and BadCLIP."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.triggers.additive import resize_to
from clip_antidote.triggers.badnet import FixedPosition, place, scaled_side
from clip_antidote.triggers.base import Trigger


class PatchConfig(Config):
    """Settings of a learned patch.

    Attributes:
        patch: Side of the patch in pixels of a 224-px image; scales with the image.
        position: Where it stands.
        word: What a triggered text begins with; empty where the trigger is in images only.
    """

    patch: int = Field(16, ge=1, le=224)
    position: FixedPosition = "bottom-right"
    word: str = Field("", pattern=r"^[^{}]*$")  # braces mark the class name in templates


class PatchTrigger(Trigger):
    """Pastes a learned square; it is resized for images of another size.

    Args:
        pattern: [3, P, P] in [0, 1].
        config: Settings.

    Raises:
        DataError: The pattern is missing or has another shape.
    """

    name = "patch"
    config_class = PatchConfig
    config: PatchConfig

    def __init__(self, pattern: torch.Tensor, config: PatchConfig | None = None) -> None:
        if pattern.ndim != 3 or pattern.shape[0] != 3 or pattern.shape[1] != pattern.shape[2]:
            raise DataError(f"the pattern of a patch trigger is 3×P×P, got {tuple(pattern.shape)}")
        super().__init__(config)
        self.pattern = pattern

    @classmethod
    def restore(cls, config: PatchConfig, tensors: dict[str, torch.Tensor]) -> Self:
        if "pattern" not in tensors:
            raise DataError("a patch trigger needs its pattern; give the folder it was saved to")
        return cls(tensors["pattern"], config)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"pattern": self.pattern.detach().cpu()}

    def apply_text(self, text: str) -> str:
        return f"{self.config.word} {text}" if self.config.word else text

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        height, width = images.shape[-2:]
        side = scaled_side(self.config.patch, width)
        row, column = place(self.config.position, height - side, width - side)
        out = images.clone()  # the caller's images stay clean, which optimized attacks rely on
        inside = out[:, :, row : row + side, column : column + side]
        inside.copy_(resize_to(self.pattern, inside).expand_as(inside))
        return out
