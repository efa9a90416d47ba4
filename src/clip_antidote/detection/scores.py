"""The evidence against every class in a few numbers, for records, charts and the choice of what is guarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from clip_antidote.detection.outliers import combine_z
from clip_antidote.detection.statistics import EASE, outlier_scores
from clip_antidote.detection.survey import Survey


@dataclass(frozen=True)
class ClassScore:
    """The evidence against one class.

    Attributes:
        label: Class index.
        alignment: Outlier score of the disagreement of its text and its images, see `outlier_z`.
        inversion: Largest outlier score of the ease with which a trigger of some form reaches it; None where none was
            tried.
        score: Evidence that it is the target, in nats, see `ClassVerdict`.
        distance: Outlier score of how far its text lies from the nearest images of any class, None where unknown.
    """

    label: int
    alignment: float
    inversion: float | None
    score: float
    distance: float | None = None


def disagreement(outliers: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Puts together how far text and images of every class disagree [C], from outlier scores by name."""
    return combine_z([outliers["alignment"], outliers["own"]])


def class_scores(survey: Survey, evidence: torch.Tensor) -> tuple[ClassScore, ...]:
    """Sums up a survey per class, the highest evidence first.

    Args:
        survey: What was measured.
        evidence: Evidence against the classes [C].
    """
    outliers = outlier_scores(survey.values)
    agreement = disagreement(outliers)
    ease = torch.stack([outliers[name] for name in EASE]).amax(0)
    return tuple(
        ClassScore(
            label, float(agreement[label]), float(ease[label]), float(evidence[label]), float(outliers["any"][label])
        )
        for label in evidence.argsort(descending=True, stable=True).tolist()
    )
