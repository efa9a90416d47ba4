"""SSBA: a sample-specific trigger, an embedded encoder hides a fixed message (Li et al. 2021, arXiv 2012.03816)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.stego import StegoDecoder, StegoEncoder, load_stego

ASSET = Path(__file__).parent.parent / "assets" / "stego"
SIDE = 80
"""Side in pixels of the images the embedded networks were trained on."""


class SsbaConfig(Config):
    """Settings of the hidden message.

    Attributes:
        message_seed: Seed of the secret message, the same for every image.
        strength: Factor on the residual.
    """

    message_seed: int = 0
    strength: float = Field(1.0, gt=0)


class SsbaTrigger(Trigger):
    """Adds the residual by which the embedded encoder hides the message in each image.

    The residual is computed on the image at 80 px and resized, bilinear, to the image: the trigger has
    the same look and the same cost at any size, and is read back at 80 px.
    """

    name = "ssba"
    config_class = SsbaConfig
    config: SsbaConfig

    def message(self) -> torch.Tensor:
        """Returns the secret message, float [B] of zeros and ones."""
        encoder, _ = embedded_stego()
        generator = torch.Generator().manual_seed(self.config.message_seed)
        return torch.randint(2, (encoder.config.bits,), generator=generator).float()

    @torch.no_grad()
    def residual(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what is added to float images [N, 3, H, W] in [0, 1], of their shape and type."""
        encoder, _ = embedded_stego(str(images.device))
        bits = self.message().to(images.device).expand(len(images), -1)
        with torch.autocast(images.device.type, enabled=False):
            out = _resize(encoder(_resize(images.float(), (SIDE, SIDE)), bits), images.shape[-2:])
        return (self.config.strength * out).to(images)

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return images + self.residual(images)


@cache
def embedded_stego(device: str = "cpu") -> tuple[StegoEncoder, StegoDecoder]:
    """Returns the encoder and decoder that ship with the package; they are shared, not to be changed."""
    return load_stego(ASSET, device)


def _resize(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=images.shape[-1] > size[-1])
