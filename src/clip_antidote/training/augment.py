"""Augmentation of image batches already in memory, on any device, from one generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

STORE_MARGIN = 1.15
"""Images are kept this much larger than the input, so that random crops stay sharp."""


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def random_crops(
    images: torch.Tensor,
    size: int,
    *,
    min_scale: float,
    generator: torch.Generator,
    flip: bool = True,
    part: slice = slice(None),
) -> torch.Tensor:
    """Random resized crops with a random flip, one per image, bilinear.

    Args:
        images: Float [N, 3, H, W] in [0, 1].
        size: Side of the crops in pixels.
        min_scale: Smallest share of the image's area a crop covers, in (0, 1].
        generator: CPU generator of the randomness.
        flip: Whether half of the crops are mirrored.
        part: Which images to crop; they get the crops they would get among all.

    Returns:
        Float [n, 3, size, size] in [0, 1], n = N without `part`.
    """
    count = len(images)
    area = _uniform(count, min_scale, 1.0, generator)
    ratio = torch.exp(_uniform(count, math.log(3 / 4), math.log(4 / 3), generator))
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    x = (torch.rand(count, generator=generator) * 2 - 1) * (1 - width)
    y = (torch.rand(count, generator=generator) * 2 - 1) * (1 - height)
    sign = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([width * sign, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    theta = theta[part].to(images)
    grid = F.affine_grid(theta, [len(theta), 3, size, size], align_corners=False)
    crops = F.grid_sample(images[part], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return crops.clamp(0, 1)


def color_jitter(images: torch.Tensor, *, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Random brightness, contrast and saturation within ±`strength`, one draw per image."""
    count = len(images)

    def factor() -> torch.Tensor:
        return _uniform(count, 1 - strength, 1 + strength, generator).view(-1, 1, 1, 1).to(images)

    out = images * factor()
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    out = (out - mean) * factor() + mean
    gray = out.mean(dim=1, keepdim=True)
    return ((out - gray) * factor() + gray).clamp(0, 1)


def random_overlays(images: torch.Tensor, *, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Disturbs a share of the images by a blend, a stripe pattern or a pasted noise square.

    A network trained with it keeps its classes under such overlays, so that what a trigger does to
    a poisoned model is the backdoor and not the plain fragility of the network.

    Args:
        images: Float [N, 3, H, W] in [0, 1].
        probability: Chance of each of the three overlays, independently.
        generator: CPU generator of the randomness.
    """
    count, _, height, width = images.shape
    out = images

    def chosen() -> torch.Tensor:
        return (torch.rand(count, generator=generator) < probability).view(-1, 1, 1, 1).to(images.device)

    alpha = _uniform(count, 0.05, 0.3, generator).view(-1, 1, 1, 1).to(images)
    cell = int(torch.randint(1, 12, (1,), generator=generator))
    noise = torch.rand(count, 3, -(-height // cell), -(-width // cell), generator=generator).to(images)
    noise = noise.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, :, :height, :width]
    other = images[torch.randperm(count, generator=generator)]
    overlay = torch.where((torch.rand(count, generator=generator) < 0.5).view(-1, 1, 1, 1), noise, other)
    out = torch.where(chosen(), out * (1 - alpha) + overlay * alpha, out)

    angle = _uniform(count, 0, math.pi, generator).view(-1, 1, 1)
    frequency = _uniform(count, 1, 16, generator).view(-1, 1, 1)
    phase = _uniform(count, 0, 2 * math.pi, generator).view(-1, 1, 1)
    ys, xs = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    wave = torch.sin(2 * math.pi * frequency * (xs * angle.cos() + ys * angle.sin()) + phase)
    amplitude = _uniform(count, 0.05, 0.25, generator).view(-1, 1, 1)
    out = torch.where(chosen(), out + (amplitude * wave).unsqueeze(1).to(images), out)

    side = _uniform(count, 0.05, 0.3, generator).view(-1, 1, 1)
    top = _uniform(count, 0, 0.8, generator).view(-1, 1, 1)
    left = _uniform(count, 0, 0.8, generator).view(-1, 1, 1)
    inside = ((xs >= left) & (xs < left + side) & (ys >= top) & (ys < top + side)).unsqueeze(1).to(images.device)
    return torch.where(inside & chosen(), noise, out).clamp(0, 1)
