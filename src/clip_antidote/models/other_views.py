"""Other views of an image: what a second look at it sees (ours, docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.encoding import autocast

Look = Callable[[torch.Tensor], torch.Tensor]
"""Takes row numbers [n] of images and gives unit features [n, K, D] of other views of these images."""


SIDES = (0.875, 0.75)
"""Sides of the crops, as shares of the image's."""


def resize_crop(crops: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes crops [n, 3, s, s] to [n, 3, size, size], bicubic and antialiased."""
    resized: torch.Tensor = vision.resize(
        crops, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized


def other_views(
    images: torch.Tensor,
    *,
    sides: tuple[float, ...] = SIDES,
    resize: Callable[[torch.Tensor, int], torch.Tensor] = resize_crop,
) -> torch.Tensor:
    """Makes 21 views of every image: its mirror image and ten crops of either size.

    The ten crops (four corners and the center, each also mirrored) are those of Krizhevsky et al. 2012, resized
    to the size of the image. A trigger is tied to a place, a scale or an orientation; what the image shows is not.

    Args:
        images: Float [n, 3, S, S] in [0, 1].
        sides: Sides of the crops, as shares of the image's.
        resize: Takes crops and a size; another one has to do what `resize_crop` does.

    Returns:
        Float [n, 1 + 10·len(sides), 3, S, S] in [0, 1].
    """
    size = images.shape[-1]
    views = [vision.horizontal_flip(images)]
    for side in sides:
        for crop in vision.ten_crop(images, [round(side * size)] * 2):
            views.append(resize(crop, size).clamp(0, 1))
    return torch.stack(views, dim=1)


def view_names(*, sides: tuple[float, ...] = SIDES) -> tuple[str, ...]:
    """What the views of `other_views` are, in their order."""
    corners = ("upper left", "upper right", "lower left", "lower right", "center")
    names = ["mirrored"]
    for side in sides:
        crops = [f"{corner}, {100 * side:g} %" for corner in corners]
        names += crops + [f"mirrored, {crop}" for crop in crops]
    return tuple(names)


def encode_views(model: DualEncoder, images: torch.Tensor, *, batch_size: int = 16) -> torch.Tensor:
    """Encodes other views of images [n, 3, S, S] in [0, 1], n at least 1, to unit features [n, K, D].

    In bf16: many views vote, so its rounding does no harm, and they cost K times an image.
    """
    parts = []
    with autocast(model.device, "bf16"):
        for part in images.split(batch_size):
            views = other_views(part)
            parts.append(model.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2]))
    return torch.cat(parts)
