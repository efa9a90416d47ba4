"""Other views of an image: what a second look at it sees (ours, docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clip_antidote.models.cleansing import cleanser, standardize_channels
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import autocast

Look = Callable[[torch.Tensor], torch.Tensor]
"""Takes row numbers [n] of images and gives unit features [n, K, D] of other views of these images."""

Change = Callable[[torch.Tensor], torch.Tensor]
"""Images [n, 3, S, S] in [0, 1] to the same."""

SIDE = 0.875
"""Side of the crops, as share of the image's."""

CORNERS = ("upper left", "upper right", "lower left", "lower right")
"""Where the crops are taken, in the order of torchvision's."""

COLORS = ("cleansed", "cleansed, even colors")
"""What is done to an image before its crops are taken."""

MIRRORED = ((False, True, True, False), (True, False, False, True))
"""Which corners are mirrored, by the colors: every corner comes once as it is and once mirrored."""

COUNT = len(COLORS) * (2 + len(CORNERS))
"""How many views there are of an image."""


def resize_crop(crops: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes crops [n, 3, s, s] to [n, 3, size, size], bicubic and antialiased."""
    resized: torch.Tensor = vision.resize(
        crops, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized


def other_views(
    images: torch.Tensor,
    *,
    cleanse: Change | None = None,
    resize: Callable[[torch.Tensor, int], torch.Tensor] = resize_crop,
) -> torch.Tensor:
    """Makes 12 views of every image, six of it cleansed and six of it cleansed with even colors.

    Each six are the image, its mirror image and crops of its corners. A trigger is tied to fine detail, single
    frequencies, colors, a place or an orientation; what the image shows is not.

    Args:
        images: Float [n, 3, S, S] in [0, 1].
        cleanse: Takes peaks and fine detail out of the spectrum; another one has to do what `cleanser` does.
        resize: Takes crops and a size; another one has to do what `resize_crop` does.

    Returns:
        Float [n, 12, 3, S, S] in [0, 1], in the order of `view_names`.
    """
    size = images.shape[-1]
    cleanse = cleanse or cleanser(size, images.device)
    views = []
    for whole, mirrored in zip((images, standardize_channels(images)), MIRRORED, strict=True):
        clean = cleanse(whole)
        views += [clean, vision.horizontal_flip(clean)]
        corners = vision.five_crop(clean, [round(SIDE * size)] * 2)[: len(CORNERS)]
        for crop, mirror in zip(corners, mirrored, strict=True):
            views.append(resize(vision.horizontal_flip(crop) if mirror else crop, size).clamp(0, 1))
    return torch.stack(views, dim=1)


def view_names() -> tuple[str, ...]:
    """What the views of `other_views` are, in their order."""
    names = []
    for color, mirrored in zip(COLORS, MIRRORED, strict=True):
        names += [color, f"{color}, mirrored"]
        for corner, mirror in zip(CORNERS, mirrored, strict=True):
            names.append(f"{color}, {corner}" + (", mirrored" if mirror else ""))
    return tuple(names)


def encode_views(model: DualEncoder, images: torch.Tensor, *, batch_size: int = 16) -> torch.Tensor:
    """Encodes other views of images [n, 3, S, S] in [0, 1], n at least 1, to unit features [n, K, D].

    In bf16 where the device has it: many views vote, so its rounding does no harm, and they cost K times an image.
    """
    parts = []
    for part in images.split(batch_size):
        views = other_views(part)  # outside of bf16, in which a spectrum is too coarse
        with autocast(model.device, "auto"):
            parts.append(model.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2]))
    return torch.cat(parts)
