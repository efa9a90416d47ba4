"""Distance from the target's clean views at every layer (Lee et al. 2018, arXiv:1807.03888, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.purification.gate_fit import scatter, shrunk
from clip_antidote.purification.stage_space import StageSpace
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe


class MahalanobisConfig(Config):
    """Settings of the distance.

    Attributes:
        shrinkage: Share of the identity in the covariance; that of the gate.
        folds: Folds in which the target's shots are held out to put the places on one scale.
    """

    shrinkage: float = Field(0.03, gt=0, le=1)
    folds: int = Field(4, ge=2)


class _Place(NamedTuple):
    """Mean [d], the lower triangle of the covariance [d, d], and mean and deviation of held-out log distances."""

    mean: torch.Tensor
    lower: torch.Tensor
    center: torch.Tensor
    spread: torch.Tensor

    def log_distance(self, features: torch.Tensor) -> torch.Tensor:
        return log_distance(features, self.mean, self.lower)


def log_distance(features: torch.Tensor, mean: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """Log of the squared Mahalanobis distance [N] of features [N, d] to a mean [d].

    Args:
        features: The features.
        mean: Where the distance is taken from.
        lower: Lower triangle of the covariance [d, d], double.
    """
    rest = torch.linalg.solve_triangular(lower, (features - mean).double().T, upper=False)
    return rest.square().sum(0).clamp_min(1e-12).log().float()


class Mahalanobis(ImageScore[MahalanobisConfig]):
    """Log of the Mahalanobis distance to the target's clean views, standardized by held-out shots, mean over places.

    The covariance is that within all classes, as in the paper, since the target's own views are few; it is shrunk.
    The paper weighs layers by a regression on known outliers; here all count alike.

    Args:
        space: The scale of the stages.
        fitted: Means and covariances per place.
    """

    config_class = MahalanobisConfig

    def __init__(self, space: StageSpace, fitted: Sequence[_Place]) -> None:
        self.space = space
        self.fitted = fitted

    @classmethod
    def fit(cls, material: Material, config: MahalanobisConfig | None = None) -> Self:
        settings = config or MahalanobisConfig()
        places = zip(material.own, material.pool, strict=True)
        return cls(
            material.space, [_fit_place(own, material.own_shots, pool, material, settings) for own, pool in places]
        )

    def score(self, probe: Probe) -> torch.Tensor:
        return torch.stack(list(self.parts(probe).values())).mean(dim=0)

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        names = [*map(str, range(1, len(self.fitted))), "final"]
        places = self.space.places(probe.layers)
        return {
            name: (place.log_distance(features) - place.center) / place.spread
            for name, place, features in zip(names, self.fitted, places, strict=True)
        }


def _fit_place(
    own: torch.Tensor, shots: torch.Tensor, pool: torch.Tensor, material: Material, config: MahalanobisConfig
) -> _Place:
    joint = shrunk(scatter(pool, material.labels), config.shrinkage)
    lower = torch.linalg.cholesky(joint + 1e-9 * torch.eye(len(joint)).double())
    whole = _Place(own.mean(0), lower, torch.tensor(0.0), torch.tensor(1.0))
    ids = shots.unique()
    if len(ids) < 2:
        held_out = whole.log_distance(own)
    else:
        parts = []
        for fold in ids.tensor_split(min(config.folds, len(ids))):
            out = torch.isin(shots, fold)
            parts.append(whole._replace(mean=own[~out].mean(0)).log_distance(own[out]))
        held_out = torch.cat(parts)
    return whole._replace(center=held_out.mean(), spread=held_out.std().clamp_min(1e-3))
