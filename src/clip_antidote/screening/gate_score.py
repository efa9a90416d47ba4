"""Today's gate as a score: Fisher's discriminant on the final feature, with the pull on the target's text."""

from __future__ import annotations

from typing import Self

import torch

from clip_antidote.purification.config import GateConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.gate_fit import GateData, fit_families
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe


def fit_at(material: Material, place: int, config: GateConfig) -> Gate:
    """Fits the gate's discriminant at one place; the pull on the text is known at the last one alone."""
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
    return fit_families(data, config)


class GateScore(ImageScore[GateConfig]):
    """The gate that `purify` puts in front of a suspected target (docs/method.md, "The gate"), its sign turned.

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
