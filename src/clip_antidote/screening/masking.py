"""How the feature moves while more and more of the image is masked (BackdoorIDS)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe
from clip_antidote.screening.view_agreement import probabilities


class MaskingConfig(Config):
    """Settings of progressive masking.

    Attributes:
        grid: Cells per side; a mask takes whole cells.
        steps: Shares of the cells that are masked, in turn.
        orders: How many orders of the cells are tried.
        seed: Seed of the orders, the same for all images.
    """

    grid: int = Field(8, ge=2)
    steps: tuple[float, ...] = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
    orders: int = Field(2, ge=1)
    seed: int = 0


class Masking(ImageScore[MaskingConfig]):
    """The largest step of the feature between masks that follow each other, as a share of the whole way.

    After BackdoorIDS (Huang et al. 2026, arXiv:2603.11664): once a mask takes the trigger away, the feature jumps,
    while that of a clean image moves smoothly. The paper clusters the sequence by DBSCAN and flags an image with more
    than one cluster; the share of the largest step is the same idea as a number. The shares and the grid are ours.

    Args:
        masks: 1 where the image stays, [orders × steps, grid, grid].
        fill: What masked pixels become, [3, 1, 1] in [0, 1]: the mean of the model's normalization.
        weights: Hand-written class weights [C, D].
        target: Class index of the target.
        scale: The logit scale.
        orders: How many orders there are.
    """

    config_class = MaskingConfig

    def __init__(
        self,
        masks: torch.Tensor,
        fill: torch.Tensor,
        weights: torch.Tensor,
        target: int,
        *,
        scale: float,
        orders: int,
    ) -> None:
        self.masks = masks
        self.fill = fill
        self.weights = weights
        self.target = target
        self.scale = scale
        self.orders = orders

    @classmethod
    def fit(cls, material: Material, config: MaskingConfig | None = None) -> Self:
        settings = config or MaskingConfig()
        generator = torch.Generator().manual_seed(settings.seed)
        cells, masks = settings.grid**2, []
        for _ in range(settings.orders):
            order = torch.randperm(cells, generator=generator)
            for share in settings.steps:
                mask = torch.ones(cells)
                mask[order[: round(share * cells)]] = 0
                masks.append(mask.view(settings.grid, settings.grid))
        fill = material.model.image_mean[0].cpu()
        scale = float(material.model.logit_scale.detach())
        return cls(torch.stack(masks), fill, material.weights, material.target, scale=scale, orders=settings.orders)

    def masked(self, images: torch.Tensor) -> torch.Tensor:
        """All masked forms [n, orders × steps, 3, S, S] of images [n, 3, S, S]."""
        masks = F.interpolate(self.masks[:, None], size=images.shape[-1], mode="nearest").to(images)[None]
        return images[:, None] * masks + self.fill.to(images) * (1 - masks)

    def score(self, probe: Probe) -> torch.Tensor:
        return self.parts(probe)["jump"]

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """The largest step, and how surely the masked forms are still called the target."""
        features = probe.changed("masks", self.masked)
        sequences = features.unflatten(1, (self.orders, -1))
        start = probe.layers.final[:, None, None].expand(-1, self.orders, 1, -1)
        steps = torch.cat([start, sequences], dim=2).diff(dim=2).norm(dim=3)
        sure = probabilities(features, self.weights, self.scale)[..., self.target].mean(dim=1)
        return {"jump": (steps.amax(2) / steps.sum(2).clamp_min(1e-6)).mean(1), "target": sure}
