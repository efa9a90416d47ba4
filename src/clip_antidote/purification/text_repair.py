"""What the target's text embedding would be without the poison (ours, beyond the paper).

Poisoned captions pull the target's text toward the triggered images. All other classes tell how texts
and images belong together in this model; what the target's text has beyond that is the pull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class TextRepair:
    """The target's text, taken apart.

    Attributes:
        weight: Unit class weight [D] that the other classes predict for the target's clean images.
        pull: Unit direction [D] in image space in which the actual weight departs from it: toward the
            triggered images.
    """

    weight: torch.Tensor
    pull: torch.Tensor


def _ridge(source: torch.Tensor, wanted: torch.Tensor, ridge: float) -> torch.Tensor:
    """Linear map [D, D] from `source` [N, D] to `wanted` [N, D], `ridge` in units of the mean variance."""
    size = source.shape[1]
    penalty = ridge * source.square().sum() / size * torch.eye(size, dtype=source.dtype)
    return torch.linalg.solve(source.T @ source + penalty, source.T @ wanted)


def repair_text(
    weights: torch.Tensor, centroids: torch.Tensor, target: int, *, ridge: float, suspects: Sequence[int] = ()
) -> TextRepair:
    """Predicts the target's text from its clean images, by what holds for all other classes.

    With W, M the class weights and centroids of the other classes, centered: A = ridge(M → W) predicts
    a weight from a centroid, B = ridge(W → M) takes the rest back to image space,
    ŵ = w̄ + (m_t − m̄)·A, pull = (w_t − ŵ)·B.

    Args:
        weights: Hand-written unit class weights [C, D].
        centroids: Unit mean features [C, D] of the clean shots.
        target: Index of the suspected target.
        ridge: Strength of the regularization, relative to the mean variance of a direction.
        suspects: All suspected targets; none of them tells how texts and images belong together.
    """
    others = torch.ones(len(weights), dtype=torch.bool)
    others[[target, *suspects]] = False
    weights, centroids = weights.double(), centroids.double()
    mean_weight, mean_centroid = weights[others].mean(0), centroids[others].mean(0)
    texts, images = weights[others] - mean_weight, centroids[others] - mean_centroid
    predicted = mean_weight + (centroids[target] - mean_centroid) @ _ridge(images, texts, ridge)
    pull = (weights[target] - predicted) @ _ridge(texts, images, ridge)
    return TextRepair(F.normalize(predicted, dim=0).float(), F.normalize(pull, dim=0).float())
