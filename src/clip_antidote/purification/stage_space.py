"""Putting the features of inner layers on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clip_antidote.models.layers import LayerFeatures

WIDEST = 512
"""Wider stages are seen through a random projection to this many dimensions, which nearly keeps angles."""

FARTHEST = 10.0
"""A channel that hardly varies in clean views must not outshout all others: so many deviations at most."""


def scaled(stage: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Unit vectors [N, D_l] of a stage [N, D_l], every channel in deviations [D_l] from its mean [D_l]."""
    return F.normalize(((stage - mean) / deviation).clamp(-FARTHEST, FARTHEST), dim=1)


@dataclass(frozen=True)
class StageSpace:
    """Maps features of stages to unit vectors, every channel with mean 0 and deviation 1 over the clean views.

    Those of wide stages are nearly unit vectors: they go through a projection afterwards, so that what is linear in
    them is linear in the unprojected ones too (`widened`), and no projection has to be kept.

    Attributes:
        means: Mean of every channel, [D_l] per stage.
        deviations: Standard deviation of every channel, [D_l] per stage.
        projections: Orthogonal columns [D_l, WIDEST] of wide stages, None for the others.
    """

    means: tuple[torch.Tensor, ...]
    deviations: tuple[torch.Tensor, ...]
    projections: tuple[torch.Tensor | None, ...]

    @classmethod
    def fit(cls, stages: Sequence[torch.Tensor], *, seed: int) -> StageSpace:
        """Fits the scales to features [V, D_l] of clean views."""
        generator = torch.Generator().manual_seed(seed)
        projections = [
            torch.linalg.qr(torch.randn(stage.shape[1], WIDEST, generator=generator))[0]
            * math.sqrt(stage.shape[1] / WIDEST)
            if stage.shape[1] > WIDEST
            else None
            for stage in stages
        ]
        deviations = [stage.std(dim=0).clamp_min(1e-6) for stage in stages]
        return cls(tuple(stage.mean(dim=0) for stage in stages), tuple(deviations), tuple(projections))

    def places(self, features: LayerFeatures) -> list[torch.Tensor]:
        """Vectors [N, d_l] of length about 1 of every stage, then the final features [N, D]."""
        parts = zip(features.stages, self.means, self.deviations, self.projections, strict=True)
        stages = [_projected(scaled(stage, mean, spread), matrix) for stage, mean, spread, matrix in parts]
        return [*stages, features.final]

    def widened(self, directions: torch.Tensor, stage: int) -> torch.Tensor:
        """Directions [D_l, G] whose products with `scaled` features are those of [d_l, G] with their places."""
        projection = self.projections[stage]
        return directions if projection is None else projection @ directions


def _projected(features: torch.Tensor, projection: torch.Tensor | None) -> torch.Tensor:
    return features if projection is None else features @ projection
