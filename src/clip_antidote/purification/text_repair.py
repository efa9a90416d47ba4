"""What the target's text embedding would be without the poison (ours, beyond the paper).

Poisoned captions pull the target's text toward the triggered images. All other classes tell how texts
and images belong together in this model; what the target's text has beyond that is the pull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clip_antidote.detection.outliers import FEWEST


def _ridge(source: torch.Tensor, wanted: torch.Tensor, ridge: float) -> torch.Tensor | None:
    """Linear map [D, D] from `source` [N, D] to `wanted` [N, D], `ridge` in units of the mean variance.

    None where `source` is constant: it has no direction to learn from.
    """
    size = source.shape[1]
    penalty = ridge * source.square().sum() / size * torch.eye(size, dtype=source.dtype)
    solved, singular = torch.linalg.solve_ex(source.T @ source + penalty, source.T @ wanted)
    return None if int(singular) or not bool(solved.isfinite().all()) else torch.as_tensor(solved)


@dataclass(frozen=True)
class TextMap:
    """How texts and images belong together in a model, learned from its classes that are not suspected.

    With W, M the class weights and centroids of these classes, centered: A = ridge(M → W) predicts a
    weight from a centroid, B = ridge(W → M) takes a rest back to image space.

    Attributes:
        mean_weight: w̄ [D].
        mean_centroid: m̄ [D].
        to_text: A [D, D].
        to_image: B [D, D].
    """

    mean_weight: torch.Tensor
    mean_centroid: torch.Tensor
    to_text: torch.Tensor
    to_image: torch.Tensor

    @classmethod
    def fit(
        cls, weights: torch.Tensor, centroids: torch.Tensor, suspects: Sequence[int], *, ridge: float
    ) -> TextMap | None:
        """Learns the maps; None where too few classes are left to learn from, or all of them are alike.

        Args:
            weights: Hand-written unit class weights [C, D].
            centroids: Unit mean features [C, D] of the clean shots.
            suspects: The suspected targets, which are left out.
            ridge: Strength of the regularization, relative to the mean variance of a direction.
        """
        others = torch.ones(len(weights), dtype=torch.bool)
        others[list(suspects)] = False
        if int(others.sum()) < FEWEST - 1:
            return None
        texts, images = weights[others].double(), centroids[others].double()
        mean_weight, mean_centroid = texts.mean(0), images.mean(0)
        texts, images = texts - mean_weight, images - mean_centroid
        to_text, to_image = _ridge(images, texts, ridge), _ridge(texts, images, ridge)
        if to_text is None or to_image is None:
            return None
        return cls(mean_weight, mean_centroid, to_text, to_image)

    def text(self, centroid: torch.Tensor) -> torch.Tensor:
        """Unit class weight [D] that belongs to clean images with this centroid [D]: ŵ = w̄ + (m − m̄)·A."""
        return F.normalize(self._text(centroid), dim=0).float()

    def pull(self, weight: torch.Tensor, centroid: torch.Tensor) -> torch.Tensor:
        """Unit direction [D] in image space in which a weight departs from its images: (w − ŵ)·B.

        For a poisoned class it leads toward the triggered images.
        """
        return F.normalize((weight.double() - self._text(centroid)) @ self.to_image, dim=0).float()

    def _text(self, centroid: torch.Tensor) -> torch.Tensor:
        return self.mean_weight + (centroid.double() - self.mean_centroid) @ self.to_text


def repair_weights(
    clean: torch.Tensor,
    weights: torch.Tensor,
    centroids: torch.Tensor,
    text_map: TextMap | None,
    suspects: Sequence[int],
    *,
    share: float,
) -> torch.Tensor:
    """Moves the clean class weights [C, D] of the suspected targets toward their repaired texts, a share of the way.

    Args:
        clean: Class weights of prompts tuned on clean views [C, D].
        weights: Hand-written class weights [C, D].
        centroids: Unit mean features of all classes' views [C, D].
        text_map: How texts and images belong together; None leaves the weights as they are.
        suspects: The suspected targets.
        share: How far they are moved, from 0 to 1.
    """
    clean = clean.clone()
    if text_map is not None:
        for target in suspects:
            moved = clean[target] + share * (text_map.text(centroids[target]) - weights[target])
            clean[target] = F.normalize(moved, dim=0)
    return clean
