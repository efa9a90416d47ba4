"""Whether the other views of the second look agree with what an image is called (ours)."""

from __future__ import annotations

from typing import Self

import torch

from clip_antidote.models.other_views import other_views
from clip_antidote.screening.base import ImageScore, NoSettings
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe


def probabilities(features: torch.Tensor, weights: torch.Tensor, scale: float) -> torch.Tensor:
    """Class probabilities [N, K, C] of unit features [N, K, D] by class weights [C, D]."""
    return (scale * features @ weights.T).softmax(dim=-1)


class ViewAgreement(ImageScore[NoSettings]):
    """One less the mean probability of the target over the views of the second look.

    A trigger is tied to a place, a scale or an orientation; what the image shows is not (`models.other_views`).

    Args:
        weights: Hand-written class weights [C, D].
        target: Class index of the target.
        scale: The logit scale.
    """

    def __init__(self, weights: torch.Tensor, target: int, scale: float) -> None:
        self.weights = weights
        self.target = target
        self.scale = scale

    @classmethod
    def fit(cls, material: Material, config: NoSettings | None = None) -> Self:
        return cls(material.weights, material.target, float(material.model.logit_scale.detach()))

    def score(self, probe: Probe) -> torch.Tensor:
        features = probe.changed("other views", other_views)
        return 1 - probabilities(features, self.weights, self.scale)[..., self.target].mean(dim=1)
