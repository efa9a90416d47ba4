"""Tensors to PNG pictures."""

from __future__ import annotations

import io

import torch
from PIL import Image


def _unit_range(image: torch.Tensor) -> torch.Tensor:
    """Returns the image as float32 in [0, 1] on the CPU; uint8 is divided by 255."""
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"a picture must have the shape 3×H×W, not {tuple(image.shape)}")
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.is_floating_point():
        raise ValueError(f"a picture must be uint8 or floating point, not {image.dtype}")
    return torch.nan_to_num(image.float(), nan=0.0).clamp(0, 1)


def to_png(image: torch.Tensor, scale: int = 1) -> bytes:
    """Encodes a picture as PNG.

    Args:
        image: 3×H×W, uint8 in [0, 255] or floating point in [0, 1] (values outside are clipped).
        scale: Every pixel becomes a square of this many pixels (nearest neighbor).

    Returns:
        An RGB PNG file of scale·H by scale·W pixels.

    Raises:
        ValueError: The shape, the type or the scale is wrong.
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1, not {scale}")
    pixels = (_unit_range(image) * 255).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def amplified_difference(clean: torch.Tensor, triggered: torch.Tensor, gain: float) -> torch.Tensor:
    """Shows what a trigger changes: mid-gray where nothing changes, lighter or darker where it does.

    Args:
        clean: 3×H×W, uint8 or floating point in [0, 1].
        triggered: The same picture with the trigger, same shape.
        gain: Factor on the difference, above 0.

    Returns:
        0.5 + gain·(triggered − clean) in float32, 3×H×W, clipped to [0, 1].

    Raises:
        ValueError: The shapes differ or are no pictures, or the gain is not above 0.
    """
    if clean.shape != triggered.shape:
        raise ValueError(f"the shapes differ: {tuple(clean.shape)} and {tuple(triggered.shape)}")
    if not gain > 0:
        raise ValueError(f"gain must be above 0, not {gain}")
    return (0.5 + gain * (_unit_range(triggered) - _unit_range(clean))).clamp(0, 1)
