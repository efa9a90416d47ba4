"""Putting the features of inner layers on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clip_antidote.models.layers import LayerFeatures

WIDEST = 512
"""Wider stages are seen through a random projection to this many dimensions, which nearly keeps angles."""


@dataclass(frozen=True)
class StageSpace:
    """Maps features of stages to unit vectors, every channel with mean 0 and deviation 1 over the clean views.

    Attributes:
        means: Mean of every channel, [D_l] per stage.
        deviations: Standard deviation of every channel, [D_l] per stage.
        projections: Orthonormal columns [D_l, WIDEST] of wide stages, None for the others.
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
            if stage.shape[1] > WIDEST
            else None
            for stage in stages
        ]
        deviations = [stage.std(dim=0).clamp_min(1e-6) for stage in stages]
        return cls(tuple(stage.mean(dim=0) for stage in stages), tuple(deviations), tuple(projections))

    def places(self, features: LayerFeatures) -> list[torch.Tensor]:
        """Unit vectors [N, d_l] of every stage, then the final features."""
        out = []
        scales = zip(features.stages, self.means, self.deviations, self.projections, strict=True)
        for stage, mean, deviation, projection in scales:
            # a channel that hardly varies in clean views must not outshout all others
            scaled = ((stage - mean) / deviation).clamp(-10, 10)
            out.append(F.normalize(scaled @ projection if projection is not None else scaled, dim=1))
        return [*out, features.final]
