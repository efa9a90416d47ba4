"""The clean images stage 1 and 2 work on: augmented views of the shots with cached features."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.augment import STORE_MARGIN, random_crops


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


def make_views(
    model: DualEncoder,
    shots: LabelledImages,
    *,
    views: int,
    min_scale: float,
    seed: int,
    precision: str = "fp32",
    margin: float = STORE_MARGIN,
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
    features = model.encode_stored(images, precision=precision, description="features")
    index = torch.arange(len(shots)).repeat(views)
    return ViewPool(images, shots.labels.repeat(views), features.cpu(), index)
