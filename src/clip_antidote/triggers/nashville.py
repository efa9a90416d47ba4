"""Nashville: a color filter over the whole image, as photo apps have it (Liu et al. 2019; TrojAI)."""

from __future__ import annotations

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.triggers.base import Trigger

_LUMINANCE = (0.2126, 0.7152, 0.0722)
_SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
_SHADE, _SHINE = (0.969, 0.690, 0.600), (0.0, 0.275, 0.588)
"""Pink that darkens, #f7b099, and blue that lightens, #004696."""


class NashvilleConfig(Config):
    """Settings of the filter; the defaults are those of the filter as web pages have it.

    Attributes:
        strength: Share of the filtered image; the rest is the image itself.
        sepia: Share of the sepia tone.
        contrast: Factor of the distances from middle gray.
        brightness: Factor of all values.
        saturation: Factor of the distances from the luminance.
        shade: Share of the pink shade that darkens.
        shine: Share of the blue shine that lightens.
    """

    strength: float = Field(1.0, gt=0, le=1)
    sepia: float = Field(0.2, ge=0, le=1)
    contrast: float = Field(1.2, ge=0)
    brightness: float = Field(1.05, ge=0)
    saturation: float = Field(1.2, ge=0)
    shade: float = Field(0.56, ge=0, le=1)
    shine: float = Field(0.4, ge=0, le=1)


class NashvilleTrigger(Trigger):
    """Sepia, contrast, brightness and saturation as CSS filters define them, then a pink shade and a blue shine.

    The shade keeps the darker of image and color, the shine the lighter one; either is mixed in by its share. Every
    pixel is changed by its own color alone, so there is no pattern in space.
    """

    name = "nashville"
    config_class = NashvilleConfig
    config: NashvilleConfig

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        config = self.config
        matrix = images.new_tensor(_SEPIA)
        out = torch.einsum("ck,nkhw->nchw", matrix, images).clamp(0, 1)
        out = config.sepia * out + (1 - config.sepia) * images
        out = ((out - 0.5) * config.contrast + 0.5).clamp(0, 1)
        out = (out * config.brightness).clamp(0, 1)
        gray = torch.einsum("k,nkhw->nhw", images.new_tensor(_LUMINANCE), out)[:, None]
        out = (gray + config.saturation * (out - gray)).clamp(0, 1)
        shade, shine = (images.new_tensor(color).view(1, 3, 1, 1) for color in (_SHADE, _SHINE))
        out = config.shade * torch.minimum(out, shade) + (1 - config.shade) * out
        out = config.shine * torch.maximum(out, shine) + (1 - config.shine) * out
        return config.strength * out + (1 - config.strength) * images
