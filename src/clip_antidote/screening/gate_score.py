"""The gate's own part as a score: Fisher's discriminant on the final feature, with the pull on the target's text."""

from __future__ import annotations

from typing import Self

import torch

from clip_antidote.purification.config import GateConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.gate_fit import GateData, fit_families
from clip_antidote.purification.inner_fit import FOLDS as INNER_FOLDS
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe


def fit_at(material: Material, place: int, config: GateConfig) -> Gate:
    """Fits the gate's discriminant at one place as `purify` does; the last one alone knows the pull on the text."""
    last = place % len(material.own) == len(material.own) - 1
    data = GateData(
        views=material.own[place],
        shots=material.own_shots,
        dummies={name: [part[place] for part in parts] for name, parts in material.dummies.items()},
        features=material.pool[place],
        labels=material.labels,
        weights=material.weights,
        target=material.target,
        text_map=material.text_map if last else None,
    )
    return fit_families(data, config) if last else fit_families(data, config, folds=INNER_FOLDS)


class GateScore(ImageScore[GateConfig]):
    """What the gate of `purify` says of the final feature (docs/method.md, "The gate"), its sign turned.

    Args:
        gate: The gate.
    """

    config_class = GateConfig

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @classmethod
    def fit(cls, material: Material, config: GateConfig | None = None) -> Self:
        return cls(fit_at(material, -1, config or GateConfig()))

    def score(self, probe: Probe) -> torch.Tensor:
        return -self.gate.score(probe.layers.final)
