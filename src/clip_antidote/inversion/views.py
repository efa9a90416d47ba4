"""The clean images stage 1 and 2 work on: augmented views of the shots with cached features."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track
from clip_antidote.training.augment import random_crops


@dataclass(frozen=True)
class ViewPool:
    """Augmented views of the shots.

    Attributes:
        images: uint8 [V, 3, S, S].
        labels: int64 [V].
        features: Unit features [V, D] of the clean views.
        shots: int64 [V], which shot each view shows.
    """

    images: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor
    shots: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: torch.Tensor) -> ViewPool:
        """Returns some of the views."""
        return ViewPool(self.images[rows], self.labels[rows], self.features[rows], self.shots[rows])


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast in bf16, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.no_grad()
def encode_uint8(
    model: DualEncoder,
    images: torch.Tensor,
    *,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    precision: str = "fp32",
    batch_size: int = 128,
    description: str = "encoding",
) -> torch.Tensor:
    """Encodes uint8 images [N, 3, S, S] to unit features [N, D], after an optional transform in [0, 1]."""
    parts = []
    batches = images.split(batch_size)
    for part in track(batches, description, total=len(batches)):
        batch = part.to(model.device).float() / 255
        with autocast(model.device, precision):
            parts.append(model.encode_images(transform(batch) if transform is not None else batch))
    return torch.cat(parts)


def make_views(
    model: DualEncoder,
    shots: LabelledImages,
    *,
    views: int,
    min_scale: float,
    seed: int,
    precision: str = "fp32",
    margin: float = 1.15,
) -> ViewPool:
    """Makes the pool: the centered view of every shot and `views - 1` random crops.

    Args:
        model: Frozen model.
        shots: The clean labelled images.
        views: Views per shot, at least 1.
        min_scale: Smallest crop as share of the area.
        seed: Seed of the crops.
        precision: "fp32" or "bf16" (autocast of the image encoder).
        margin: Shots are kept this much larger than the input, so that crops stay sharp.
    """
    size = model.image_size
    mode = model.resize_mode
    generator = torch.Generator().manual_seed(seed)
    parts = [shots.tensor(size, mode=mode)]
    if views > 1:
        large = shots.tensor(round(size * margin), mode=mode)
        for _ in range(views - 1):
            crops = [
                random_crops(part.float() / 255, size, min_scale=min_scale, generator=generator)
                for part in large.split(256)
            ]
            parts.append((torch.cat(crops) * 255).round().to(torch.uint8))
    images = torch.cat(parts)
    features = encode_uint8(model, images, precision=precision, description="features")
    index = torch.arange(len(shots)).repeat(views)
    return ViewPool(images, shots.labels.repeat(views), features.cpu(), index)
