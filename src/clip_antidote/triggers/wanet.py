"""WaNet: a smooth elastic warp, the same for every image (Nguyen and Tran 2021, arXiv 2102.10369)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger

REFERENCE_SIDE = 224
"""At this side the warp is the published one."""


class WaNetConfig(Config):
    """Settings of the warp.

    At 224 px this is the published grid + s·noise / 224, whose mean displacement is s/2 pixels. At other sizes
    the displacement is the same share of the side, s/448, where the published code keeps it at s/2 pixels: at
    80 px the default moves a pixel by about 0.6 pixels, and the paper's 0.5 would by 0.09, which a model of that
    size cannot see. Variants: k 4, strength 0.5 (the paper); k 224, strength 1 (the CLIP repositories).

    Attributes:
        k: Side of the control grid.
        strength: The published s at 224 px.
        seed: Seed of the control grid.
    """

    k: int = Field(224, ge=2, le=224)
    strength: float = Field(4.0, gt=0)
    seed: int = 0


class WaNetTrigger(Trigger):
    """Warps the image along a fixed random field."""

    name = "wanet"
    config_class = WaNetConfig
    config: WaNetConfig

    def control(self) -> torch.Tensor:
        """Returns the control grid [1, 2, k, k]: x and y displacements with a mean magnitude of 1."""
        generator = torch.Generator().manual_seed(self.config.seed)
        noise = 2 * torch.rand(1, 2, self.config.k, self.config.k, generator=generator) - 1
        return noise / noise.abs().mean()

    def grid(self, height: int, width: int) -> torch.Tensor:
        """Returns where every pixel is taken from [1, height, width, 2]: (x, y) in [-1, 1], corner to corner."""
        field = F.interpolate(self.control(), (height, width), mode="bicubic", align_corners=True)
        return shifted_grid(self.config.strength / REFERENCE_SIDE * field[0])

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return warped(self.grid(*images.shape[-2:]), images)


def shifted_grid(shift: torch.Tensor) -> torch.Tensor:
    """Where every pixel is taken from [1, height, width, 2], (x, y) in [-1, 1], corner to corner.

    Args:
        shift: How far pixels are moved in x and y, in the same units [2, height, width].
    """
    rows, columns = (torch.linspace(-1, 1, size) for size in shift.shape[1:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return (torch.stack([x, y], dim=-1) + shift.permute(1, 2, 0)).clamp(-1, 1)[None]


def warped(grid: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Takes the pixels of all images [N, 3, height, width] from the places of a grid, see `shifted_grid`."""
    places = grid.to(images).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, places, mode="bilinear", align_corners=True)
