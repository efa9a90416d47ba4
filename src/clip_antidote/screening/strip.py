"""STRIP (Gao et al. 2019, arXiv:1902.06531): does the answer survive that other images are laid over it."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe
from clip_antidote.screening.view_agreement import probabilities


class StripConfig(Config):
    """Settings of STRIP.

    Attributes:
        overlays: How many images are laid over each; the paper takes 100, and finds few to be enough.
        share: Weight of the image; the overlay has the rest.
        seed: Seed of the draw of the overlays.
    """

    overlays: int = Field(16, ge=1)
    share: float = Field(0.5, gt=0, lt=1)
    seed: int = 0


class Strip(ImageScore[StripConfig]):
    """The mean entropy of the answers under overlays, its sign turned: a trigger that wins over them leaves little.

    Overlays are clean shots of other classes. Deviation: images are averaged instead of added, so that they stay in
    [0, 1].

    Args:
        overlays: Float [K, 3, S, S] in [0, 1].
        weights: Hand-written class weights [C, D].
        target: Class index of the target.
        share: Weight of the image.
        scale: The logit scale.
    """

    config_class = StripConfig

    def __init__(
        self, overlays: torch.Tensor, weights: torch.Tensor, target: int, *, share: float, scale: float
    ) -> None:
        self.overlays = overlays
        self.weights = weights
        self.target = target
        self.share = share
        self.scale = scale

    @classmethod
    def fit(cls, material: Material, config: StripConfig | None = None) -> Self:
        settings = config or StripConfig()
        others = (~torch.isin(torch.arange(len(material.images)), material.target_shots)).nonzero().flatten()
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(settings.seed))
        overlays = material.images[others[order[: settings.overlays]]].float() / 255
        scale = float(material.model.logit_scale.detach())
        return cls(overlays, material.weights, material.target, share=settings.share, scale=scale)

    def blended(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 3, S, S] under all overlays, [n, K, 3, S, S]."""
        return self.share * images[:, None] + (1 - self.share) * self.overlays.to(images)[None]

    def score(self, probe: Probe) -> torch.Tensor:
        found = probabilities(probe.changed("overlays", self.blended), self.weights, self.scale)
        return (found * found.clamp_min(1e-12).log()).sum(-1).mean(1)

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """How surely the image is still called the target."""
        found = probabilities(probe.changed("overlays", self.blended), self.weights, self.scale)
        return {"target": found[..., self.target].mean(1)}
