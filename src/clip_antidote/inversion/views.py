"""A suspect model as a defender sees it: through augmented views of its clean shots, with cached features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.inversion.alignment import class_centroids
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import Precision
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
    precision: Precision = "fp32",
    margin: float = STORE_MARGIN,
) -> ViewPool:
    """Makes the pool: the centered view of every shot and `views - 1` random crops.

    Args:
        model: Frozen model.
        shots: The clean labelled images.
        views: Views per shot, at least 1.
        min_scale: Smallest crop as share of the area.
        seed: Seed of the crops.
        precision: What the image encoder runs in.
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


@dataclass(frozen=True)
class Observation:
    """What every stage of a purification looks at; made once, by `purification.observe`.

    Attributes:
        model: The suspect, frozen.
        shots: Its clean labelled images.
        weights: Class weights in force [C, D], on the CPU: the hand-written ones.
        pool: Views of the shots with their features.
        precision: What the image encoder runs in.
    """

    model: DualEncoder
    shots: LabelledImages
    weights: torch.Tensor
    pool: ViewPool
    precision: Precision

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.shots.classes

    @property
    def shots_per_class(self) -> float:
        """Mean number of shots per class."""
        return len(self.pool.shots.unique()) / len(self.weights)

    def centroids(self) -> torch.Tensor:
        """Unit mean feature of the views of every class, [C, D]."""
        return class_centroids(self.pool.features, self.pool.labels, len(self.weights))

    def encode(
        self, images: torch.Tensor, transform: Callable[[torch.Tensor], torch.Tensor], *, description: str
    ) -> torch.Tensor:
        """Encodes uint8 images [N, 3, S, S] under a transform in [0, 1] to unit features [N, D] on the CPU."""
        features = self.model.encode_stored(
            images, transform=transform, precision=self.precision, description=description
        )
        return features.cpu()

    def views_of(self, label: int, *, views: int, min_scale: float, seed: int) -> ViewPool:
        """Makes other views of the shots of one class, see `make_views`."""
        own = self.shots.subset((self.shots.labels == label).nonzero().flatten())
        return make_views(self.model, own, views=views, min_scale=min_scale, seed=seed, precision=self.precision)
