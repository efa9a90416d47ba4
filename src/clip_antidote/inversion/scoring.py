"""The evidence against every class: disagreement of text and images, and ease of inversion, put together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from clip_antidote.inversion.evidence import combine_z, evidence, outlier_z

CALIBRATED = 16
"""Shots per class with which the thresholds of the evidence were set."""

IMAGE_VARIANCE = 1.5
"""Variance of one image about its class, in units of the variance between classes; read off the clean `tiny`."""

NEAR = 0.1
"""A class within this share of the leader's disagreement counts as near it; set on models of one family."""


@dataclass(frozen=True)
class ClassScore:
    """The evidence against one class.

    Attributes:
        label: Class index.
        alignment: Outlier score of the disagreement of its text and its images, see `outlier_z`.
        inversion: Outlier score of the ease of inversion, None where it was not tried.
        score: The disagreement as evidence, −log10 of what chance would do; for classes that lead in it or come
            near, that of the inversion is added. Compared with the threshold.
        distance: Outlier score of how far its text lies from the nearest images of any class, None where unknown.
    """

    label: int
    alignment: float
    inversion: float | None
    score: float
    distance: float | None = None


@dataclass(frozen=True)
class Signals:
    """What is measured about the classes, before they are compared.

    Attributes:
        agreement: How well text and images of all classes agree, by two measures [2, C].
        shortlist: Class indices whose inversion was tried [H].
        objectives: Log objective of the shortlist, per family [F, H].
        closeness: How near the text of all classes comes to images of any class [C].
        suspects: How many of the shortlist, from its beginning, are judged by their inversion; None for all. The
            rest is there to be guarded.
        shots: Images per class behind `agreement`.
    """

    agreement: torch.Tensor
    shortlist: torch.Tensor
    objectives: torch.Tensor
    closeness: torch.Tensor
    suspects: int | None = None
    shots: float = CALIBRATED


def reliability(shots: float) -> tuple[float, float]:
    """How far the disagreement of a class, seen on a few of its images, is to be believed.

    The mean of K images has the variance of the class and 1/K of that of an image, about 1.5 times as large: a single
    odd image sets its class apart. So outlier scores shrink by √(K/(K + 1.5)), and classes count as near the
    leader within a tenth of its score, times √(16/K). Both are 1 at 16 shots, with which the thresholds were set.

    Args:
        shots: Images per class K.

    Returns:
        The factor of the scores, and the share of the leader's score from which on a class is near it.
    """
    shots = min(shots, CALIBRATED)
    shrink = math.sqrt(shots / (shots + IMAGE_VARIANCE) * (CALIBRATED + IMAGE_VARIANCE) / CALIBRATED)
    return shrink, 1 - NEAR * math.sqrt(CALIBRATED / shots)


def judge(signals: Signals, taken: torch.Tensor) -> list[ClassScore]:
    """Scores the shortlist, highest first, against all classes that are not taken.

    Args:
        signals: What was measured.
        taken: Class indices that are left out, since they were found before.
    """
    shrink, near = reliability(signals.shots)
    kept = ~torch.isin(torch.arange(signals.agreement.shape[1]), taken)
    misaligned = torch.full((len(kept),), -torch.inf)
    misaligned[kept] = shrink * combine_z([outlier_z(row[kept]) for row in signals.agreement])
    distance = torch.zeros(len(kept))
    distance[kept] = outlier_z(signals.closeness[kept])
    open_ = kept[signals.shortlist]
    rows = signals.shortlist[open_]
    if not len(rows):
        return []
    first = signals.suspects if signals.suspects is not None else len(open_)
    suspects = int(open_[:first].sum())
    ease = combine_z([outlier_z(row[open_]) for row in signals.objectives])
    ease[:suspects] = combine_z([outlier_z(row[:first][open_[:first]]) for row in signals.objectives])
    combined = evidence(misaligned[rows], int(kept.sum()))
    # Some classes attract triggers in clean models too, so ease alone convicts nobody: it counts only for
    # classes whose text and images disagree about as much as those of the leader.
    leads = misaligned[rows] >= near * misaligned[rows].max()
    combined[:suspects] += leads[:suspects] * evidence(ease[:suspects], suspects)
    scores = [
        ClassScore(int(label), float(misaligned[label]), float(inv), float(score), float(distance[label]))
        for label, inv, score in zip(rows, ease, combined, strict=True)
    ]
    return sorted(scores, key=lambda entry: -entry.score)
