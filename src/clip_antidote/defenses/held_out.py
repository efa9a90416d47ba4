"""Clean validation images: shots that are held out to choose settings by, and the accuracy on them."""

from __future__ import annotations

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import encode_test_images
from clip_antidote.prompts.classifier import ZeroShotClassifier

SHARE = 0.25
"""Which part of the shots of every class is held out, at least one image."""


def hold_out(shots: LabelledImages, *, seed: int, share: float = SHARE) -> tuple[LabelledImages, LabelledImages]:
    """Splits shots into those to work with and those to choose by, class by class.

    Args:
        shots: Clean labelled images, at least two of every class.
        seed: Seed of the draw.
        share: Part of every class that is held out; at least one image is, and at least one is not.

    Returns:
        The shots to work with, and those that are held out.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for label in range(len(shots.classes)):
        rows = (shots.labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held.append(rows[:count])
        kept.append(rows[count:])
    return shots.subset(torch.cat(kept)), shots.subset(torch.cat(held))


def clean_accuracy(classifier: ZeroShotClassifier, images: LabelledImages) -> float:
    """The share of images that are called by their class, from 0 to 1."""
    features = encode_test_images(classifier.model, images)
    device = classifier.classifier.device
    called = classifier.logits(features.clean.to(device), features.look_clean, features.layers_clean).argmax(-1).cpu()
    return float((called == images.labels).float().mean())
