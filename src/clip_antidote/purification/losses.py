"""The three losses of stage 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def classification_loss(
    features: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    logit_scale: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of s·z·Wᵀ: utility on clean features, reclassification on triggered ones.

    Args:
        features: Unit features [N, D].
        labels: True classes [N].
        weights: Unit class weights [C, D].
        logit_scale: Scalar s.
    """
    return F.cross_entropy(logit_scale * features @ weights.T, labels)


def anchor_loss(weights: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    """Mean cosine distance of the class weights [C, D] to the hand-written ones [C, D]."""
    return 1 - (weights * anchor).sum(-1).mean()
