"""How well texts and clean images of the classes agree: where to look for a target before any inversion."""

from __future__ import annotations

import torch
import torch.nn.functional as F

NEAREST = 0.2
"""Share of a class's views that `best_similarity` looks at: those that show the class best, and more than one."""


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


def best_similarity(
    features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, *, share: float = NEAREST
) -> torch.Tensor:
    """Mean cosine of each class's text to those of its own images that are nearest to it.

    The text of a poisoned class lies where no clean image comes, so even the best of them stay away; a class
    that is merely diverse has images that come near.

    Args:
        features: Unit features [V, D].
        labels: Classes [V]; every class has an image.
        weights: Unit class weights [C, D].
        share: Share of a class's images that count, at least one.

    Returns:
        Similarity [C] in [-1, 1].
    """
    own = (features * weights[labels]).sum(-1)
    parts = [own[labels == label] for label in range(len(weights))]
    return torch.stack([part.topk(max(1, round(share * len(part)))).values.mean() for part in parts])


def closest_similarity(features: torch.Tensor, weights: torch.Tensor, *, share: float = NEAREST) -> torch.Tensor:
    """Mean cosine of each class's text to those images of *any* class that are nearest to it.

    The text of a class that is merely confusable lies near images of its neighbors; that of a poisoned class may lie
    where no clean image is at all.

    Args:
        features: Unit features [V, D].
        weights: Unit class weights [C, D].
        share: Share of V/C images, what one class has, that count; at least one.

    Returns:
        Similarity [C] in [-1, 1].
    """
    nearest = min(len(features), max(1, round(share * len(features) / len(weights))))
    return (features @ weights.T).topk(nearest, dim=0).values.mean(0)
