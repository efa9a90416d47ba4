"""How near an image is to clean samples of its predicted class, layer by layer (TED and TED++)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.purification.gate_fit import scatter, shrunk
from clip_antidote.purification.stage_space import StageSpace
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe


class RankConfig(Config):
    """Settings of the trajectory.

    Attributes:
        tube: Quantile of the distances from clean samples to the nearest other one of their class: the radius of the
            class's tube at a layer.
        shrinkage: Share of the identity in the covariance of the trajectories.
    """

    tube: float = Field(0.95, gt=0, le=1)
    shrinkage: float = Field(0.05, gt=0, le=1)


class RankTrajectory(ImageScore[RankConfig]):
    """TED (Mo et al. 2024, "Robust Backdoor Detection for Deep Learning via Topological Evolution Dynamics").

    At every layer, clean samples are sorted by their distance from the image; the rank of the nearest one of the
    predicted class makes a trajectory. How odd it is, the Mahalanobis distance to trajectories of clean views of all
    classes says (TED uses PCA of the ranks, in which the distance is the same where no component is dropped). Ranks
    enter by their logarithm, as few clean samples make them heavy-tailed; the predicted class is the target, since
    only images that are called so are scored. A sample is never its own neighbor.

    Args:
        material: The clean samples.
        config: Settings.
    """

    config_class = RankConfig
    within_tube: ClassVar[bool] = False

    def __init__(self, material: Material, config: RankConfig) -> None:
        self.space: StageSpace = material.space
        count = len(material.shots.unique())  # the centered views, which come first
        self.samples = [place[:count] for place in material.pool]
        self.labels, self.shots = material.labels[:count], material.shots[:count]
        self.target = material.target
        called = (self.samples[-1] @ material.weights.T).argmax(1)
        normal = (called == self.labels).nonzero().flatten()
        if len(normal) < 2:
            normal = torch.arange(len(called))
        distances = [torch.cdist(place[normal], place) for place in self.samples]
        own = self.shots[normal][:, None] == self.shots[None]
        for part in distances:
            part.masked_fill_(own, torch.inf)
        nearest = [_nearest(part, self.labels, self.labels[normal]) for part in distances]
        # with one shot per class a class has no other sample
        finite = [part[part.isfinite()] for part in nearest]
        self.radii = [float(part.quantile(config.tube)) if len(part) else torch.inf for part in finite]
        clean = self._trajectories(distances, self.labels[normal])
        self.mean = clean.mean(0)
        self.joint = shrunk(scatter(clean), config.shrinkage) + 1e-9 * torch.eye(clean.shape[1]).double()

    @classmethod
    def fit(cls, material: Material, config: RankConfig | None = None) -> Self:
        return cls(material, config or RankConfig())

    def score(self, probe: Probe) -> torch.Tensor:
        rest = (self._of(probe) - self.mean).double()
        return (rest * torch.linalg.solve(self.joint, rest.T).T).sum(1).clamp_min(0).sqrt().float()

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """The log rank at every place, and their mean."""
        found = self._of(probe)
        names = [*map(str, range(1, found.shape[1])), "final"]
        return {"mean": found.mean(1), **{name: found[:, i] for i, name in enumerate(names)}}

    def _of(self, probe: Probe) -> torch.Tensor:
        places = self.space.places(probe.layers)
        distances = [torch.cdist(own, samples) for own, samples in zip(places, self.samples, strict=True)]
        return self._trajectories(distances, torch.full((len(probe),), self.target))

    def _trajectories(self, distances: Sequence[torch.Tensor], predicted: torch.Tensor) -> torch.Tensor:
        """log(1 + rank) [N, places] of the nearest clean sample of the predicted class [N]."""
        out = []
        for part, radius in zip(distances, self.radii, strict=True):
            nearest = _nearest(part, self.labels, predicted)
            ranks = (part < nearest[:, None]).sum(1).float()
            if self.within_tube:
                ranks = torch.where(nearest > radius, float(part.shape[1]), ranks)
            out.append(ranks.log1p())
        return torch.stack(out, dim=1)


class TubeTrajectory(RankTrajectory):
    """TED++ (Le et al. 2025, arXiv:2510.14299): outside the tube around its class, an image gets the last rank.

    The paper estimates the radius of the tube from clean samples at each layer; here it is a quantile over samples of
    all classes of the distance to the nearest other one of their class, since a class has few shots.
    """

    within_tube = True


def _nearest(distances: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Distance [N] to the nearest sample of the wanted class, given those to all samples [N, V]."""
    return distances.masked_fill(labels[None] != wanted[:, None], torch.inf).amin(dim=1)
