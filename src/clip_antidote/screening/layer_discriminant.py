"""The gate's discriminant at inner layers (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch

from clip_antidote.purification.config import GateConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.stage_space import StageSpace
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.gate_score import fit_at
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe


class LayerDiscriminant(ImageScore[GateConfig]):
    """Fisher's discriminant between the target's clean views and the dummies at every stage but the last feature.

    Each is fitted and scaled as the gate is (0 where dummies end, 1 the median of held-out clean views), without the
    pull on the text, which inner layers do not have. The score is the mean over the stages, its sign turned.

    Args:
        space: The scale of the stages.
        gates: A gate per stage.
    """

    config_class = GateConfig

    def __init__(self, space: StageSpace, gates: Sequence[Gate]) -> None:
        self.space = space
        self.gates = gates

    @classmethod
    def fit(cls, material: Material, config: GateConfig | None = None) -> Self:
        settings = config or GateConfig()
        stages = range(len(material.own) - 1)
        return cls(material.space, [fit_at(material, stage, settings) for stage in stages])

    def score(self, probe: Probe) -> torch.Tensor:
        return torch.stack(list(self.parts(probe).values())).mean(dim=0)

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        places = self.space.places(probe.layers)
        return {str(i + 1): -gate.score(places[i]) for i, gate in enumerate(self.gates)}
