"""SCALE-UP (Guo et al. 2023, arXiv:2302.03251): does the answer survive that all pixels are amplified."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe
from clip_antidote.screening.view_agreement import probabilities


class ScaleUpConfig(Config):
    """Settings of SCALE-UP.

    Attributes:
        factors: What pixels are multiplied by; those of the paper.
    """

    factors: tuple[float, ...] = Field((3.0, 5.0, 7.0, 9.0, 11.0), min_length=1)


class ScaleUp(ImageScore[ScaleUpConfig]):
    """Scaled prediction consistency: the share of amplified forms that are still called the target.

    The paper's form for few clean images standardizes it within each predicted class, which changes no order here as
    all images that are scored are called the same.

    Args:
        factors: What pixels are multiplied by.
        weights: Hand-written class weights [C, D].
        target: Class index of the target.
        scale: The logit scale.
    """

    config_class = ScaleUpConfig

    def __init__(self, factors: tuple[float, ...], weights: torch.Tensor, target: int, scale: float) -> None:
        self.factors = factors
        self.weights = weights
        self.target = target
        self.scale = scale

    @classmethod
    def fit(cls, material: Material, config: ScaleUpConfig | None = None) -> Self:
        settings = config or ScaleUpConfig()
        return cls(settings.factors, material.weights, material.target, float(material.model.logit_scale.detach()))

    def amplified(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 3, S, S] with every factor, clipped to [0, 1]: [n, K, 3, S, S]."""
        return torch.stack([(factor * images).clamp(0, 1) for factor in self.factors], dim=1)

    def score(self, probe: Probe) -> torch.Tensor:
        found = probabilities(probe.changed("amplified", self.amplified), self.weights, self.scale)
        return (found.argmax(-1) == self.target).float().mean(1)

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """The mean probability of the target, which has fewer ties."""
        found = probabilities(probe.changed("amplified", self.amplified), self.weights, self.scale)
        return {"target": found[..., self.target].mean(1)}
