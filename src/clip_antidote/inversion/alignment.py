"""Text–image alignment of the classes: where to look for a target before any inversion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def class_centroids(features: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the unit mean feature of every class, [C, D]."""
    one_hot = F.one_hot(labels, count).to(features)
    return F.normalize(one_hot.T @ features, dim=-1)


def alignment(weights: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Cosine between each class's centered zero-shot weight and the centered centroid of its images.

    Poisoning pulls the target's text embedding toward the triggered images and so away from the
    clean images of its own class; the target stands out by a low alignment.

    Args:
        weights: Zero-shot class weights [C, D].
        centroids: Mean features of the clean shots [C, D].

    Returns:
        Alignment [C] in [-1, 1].
    """
    centered_weights = weights - weights.mean(0)
    centered_images = centroids - centroids.mean(0)
    return F.cosine_similarity(centered_weights, centered_images, dim=-1)


def robust_z(values: torch.Tensor, population: torch.Tensor | None = None) -> torch.Tensor:
    """Robust z-scores: distance below the median in units of 1.4826·MAD (Iglewicz and Hoaglin).

    Args:
        values: [N]; small values are suspicious and get positive scores.
        population: [M] to take median and MAD from; `values` themselves when None.

    Returns:
        Scores [N].
    """
    reference = values if population is None else population
    median = reference.quantile(0.5)
    mad = (reference - median).abs().quantile(0.5)
    return (median - values) / (1.4826 * mad).clamp_min(1e-6)


def expected_extreme(count: int) -> float:
    """About how far the largest of `count` independent normal values lies above the mean, √(2·ln N).

    The most suspicious of many classes always looks suspicious; only what exceeds this says something.
    """
    return math.sqrt(2 * math.log(max(2, count)))


def outlier_scores(misaligned: torch.Tensor, ease: torch.Tensor, classes: int) -> torch.Tensor:
    """How much each hypothesis stands out by alignment and inversion together.

    The sum of both z-scores, less what chance gives the largest of as many values, plus the lead over
    the best other hypothesis (negative for all but the first). A clean network has easy directions and
    weak classes too, but several that resemble each other; a backdoor stands alone.

    Args:
        misaligned: Robust z-scores of the alignment of H hypotheses [H].
        ease: Robust z-scores of their inversion [H].
        classes: Number C of all classes, from which the hypotheses were chosen by alignment.

    Returns:
        Scores [H].
    """
    evidence = misaligned + ease
    if len(evidence) < 2:
        return evidence - expected_extreme(classes)
    best, second = evidence.topk(2).values
    rival = torch.where(evidence == best, second, best)
    chance = expected_extreme(classes) + expected_extreme(len(evidence))
    return (evidence - chance) + (evidence - rival)
