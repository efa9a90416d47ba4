"""What the heads of a ViT add to the target's similarity, against clean images of the target (after Decomp).

Backdoors of CLIP show in few places of a ViT: patches in heads of the last blocks, triggers all over the image in
late MLPs. So the parts' shares of one logit are compared, not the feature that is their sum.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.head_contributions import has_heads, head_contributions
from clip_antidote.purification.gate_fit import scatter, shrunk
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.mahalanobis import log_distance
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe

BATCH = 64


class HeadsConfig(Config):
    """Settings of the score.

    Attributes:
        shrinkage: Share of the identity in the covariance of the shares, as the gate's.
    """

    shrinkage: float = Field(0.03, gt=0, le=1)


@torch.no_grad()
def shares_of(model: DualEncoder, images: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """How much of an image's cosine with a direction comes from each part of the tower.

    Args:
        model: A model with heads.
        images: uint8 or float in [0, 1], [N, 3, S, S].
        direction: [D], or one for every image [N, D].

    Returns:
        [N, parts]; the sum over the parts is the cosine, for unit directions.
    """
    direction, found = direction.expand(len(images), -1), []
    for rows in torch.arange(len(images)).split(BATCH):
        part = images[rows].to(model.device)
        parts = head_contributions(model, part.float() / 255 if part.dtype == torch.uint8 else part).float().cpu()
        lengths = parts.sum(dim=1).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        found.append((parts @ direction[rows][:, :, None])[:, :, 0] / lengths)
    return torch.cat(found)


class Heads(ImageScore[HeadsConfig]):
    """Log of the Mahalanobis distance of an image's shares to those of the target's clean shots.

    The covariance is that of all shots about their classes' means, each by its own class's direction: the class
    weight less the mean of all, so that what speaks for any class alike does not count.

    Args:
        model: The suspect.
        direction: The target's [D].
        mean: Mean shares of the target's shots [K].
        lower: Lower triangle of the covariance [K, K].
    """

    config_class = HeadsConfig

    def __init__(self, model: DualEncoder, direction: torch.Tensor, mean: torch.Tensor, lower: torch.Tensor) -> None:
        self.model = model
        self.direction = direction
        self.mean = mean
        self.lower = lower

    @classmethod
    def suits(cls, model: DualEncoder) -> bool:
        return has_heads(model)

    @classmethod
    def fit(cls, material: Material, config: HeadsConfig | None = None) -> Self:
        shrinkage = (config or HeadsConfig()).shrinkage
        directions = material.weights - material.weights.mean(0)
        numbers = material.shots.unique()
        shown = torch.zeros(len(material.images), dtype=torch.long)
        shown[material.shots] = material.labels
        labels = shown[numbers]
        shares = shares_of(material.model, material.images[numbers], directions[labels]).double()
        joint = shrunk(scatter(shares, labels), shrinkage)
        own = shares[torch.isin(numbers, material.target_shots)]
        return cls(material.model, directions[material.target], own.mean(0), torch.linalg.cholesky(joint))

    def score(self, probe: Probe) -> torch.Tensor:
        return log_distance(shares_of(self.model, probe.images, self.direction).double(), self.mean, self.lower)
