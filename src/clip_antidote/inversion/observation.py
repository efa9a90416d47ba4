"""A suspect model as a defender sees it: through the clean shots of its classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.inversion.alignment import class_centroids
from clip_antidote.inversion.views import ViewPool, make_views
from clip_antidote.models.dual_encoder import DualEncoder

Precision = Literal["fp32", "bf16"]


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
