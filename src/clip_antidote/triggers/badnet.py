"""BadNet: a small patch (Gu et al. 2017, arXiv 1708.06733), 16×16 at 224 px as in CleanCLIP."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger

FixedPosition = Literal["bottom-right", "bottom-left", "top-right", "top-left", "center"]
Position = FixedPosition | Literal["random"]


class BadNetConfig(Config):
    """Settings of the patch.

    Attributes:
        patch: Side of the patch in pixels of a 224-px image; scales with the image.
        position: Where it stands; "random" draws a place per image (CleanCLIP).
        fresh: Whether every image gets new noise (CleanCLIP) instead of one fixed pattern.
        seed: Seed of the fixed pattern.
    """

    patch: int = Field(16, ge=1, le=224)
    position: Position = "bottom-right"
    fresh: bool = False
    seed: int = 0


class BadNetTrigger(Trigger):
    """Pastes a square of noise."""

    name = "badnet"
    config_class = BadNetConfig
    config: BadNetConfig

    def side(self, width: int) -> int:
        """Returns the patch's side in pixels for an image of that width."""
        return scaled_side(self.config.patch, width)

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        count, _, height, width = images.shape
        side = self.side(width)
        draw = generator or torch.Generator().manual_seed(self.config.seed + 1)
        fixed = torch.Generator().manual_seed(self.config.seed)
        if self.config.fresh:
            pattern = torch.rand(count, 3, side, side, generator=draw)
        else:
            pattern = torch.rand(1, 3, side, side, generator=fixed).expand(count, -1, -1, -1)
        rows, columns = self._places(count, height - side, width - side, draw)
        out = images.clone()
        for i in range(count):
            row, column = int(rows[i]), int(columns[i])
            out[i, :, row : row + side, column : column + side] = pattern[i].to(images)
        return out

    def _places(
        self, count: int, bottom: int, right: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        position = self.config.position
        if position == "random":
            rows = torch.randint(0, bottom + 1, (count,), generator=generator)
            return rows, torch.randint(0, right + 1, (count,), generator=generator)
        row, column = place(position, bottom, right)
        return torch.full((count,), row), torch.full((count,), column)


def scaled_side(patch: int, width: int) -> int:
    """Returns the side in pixels, in an image of that width, of a patch given for 224 px."""
    return max(1, round(patch * width / 224))


def place(position: FixedPosition, bottom: int, right: int) -> tuple[int, int]:
    """Returns row and column of the patch's upper left corner, where they may be at most bottom and right."""
    if position == "center":
        return bottom // 2, right // 2
    return bottom if "bottom" in position else 0, right if "right" in position else 0
