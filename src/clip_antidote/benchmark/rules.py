"""Rules that the evidence is held against: each gives every class of a survey a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from clip_antidote.detection.probes import PROBES
from clip_antidote.detection.scores import disagreement
from clip_antidote.detection.statistics import EASE, outlier_scores

Rule = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
"""Gives every class a score [C], from the statistics."""


def text_alone(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The disagreement of text and images alone."""
    return disagreement(outlier_scores(values))


def ease_deviation(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Neural Cleanse's anomaly index (Wang et al. 2019) of the ease of inversion: deviations by 1.4826 · MAD.

    The largest over the forms of triggers.
    """
    ease = torch.stack([values[name] for name in EASE])
    deviations = ease.median(1, keepdim=True).values - ease
    return (deviations / (1.4826 * deviations.abs().median(1, keepdim=True).values).clamp_min(1e-12)).amax(0)


def probes_alone(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loudest of waves, noise and warps."""
    scores = outlier_scores(values)
    return torch.stack([scores[name] for name in PROBES]).amax(0)


BASELINES: dict[str, Rule] = {
    "disagreement alone": text_alone,
    "inversion alone (MAD)": ease_deviation,
    "probes alone": probes_alone,
}
