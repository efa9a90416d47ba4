"""How every job begins that looks at a suspect: loading it with what is odd about it, and what the images allow."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.activation import activation_check

ACTIVATION_IMAGES = 512
"""Shots that tell whether the activation of the model is the right one."""

FEWEST_SHOTS = 4
"""With fewer images per class a target may be missed and much of the ASR stay (docs/results.md, fewer shots)."""


def load_suspect(spec: str, shots: LabelledImages, device: str) -> tuple[DualEncoder, list[str]]:
    """Loads a suspect and says what is odd about it, by what loading it warns of and by its answers to the shots."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load_model(spec, device=device)
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    few = torch.randperm(len(shots), generator=torch.Generator().manual_seed(0))[:ACTIVATION_IMAGES]
    pixels = shots.subset(few).tensor(model.image_size, mode=model.resize_mode)
    sentence = activation_check(model, pixels.float().to(device) / 255, shots.labels[few], shots.classes)
    return model, [*notes, sentence] if sentence else notes


def warn_of_few(classes: Sequence[str], shots: int) -> list[str]:
    """Says what cannot be found with so few classes or images."""
    notes = []
    if len(classes) < FEWEST:
        notes.append(
            f"there are {len(classes)} classes; with fewer than {FEWEST} none can stand out as a target, so a "
            "backdoor will not be found"
        )
    if shots < FEWEST_SHOTS:
        notes.append(
            f"clean images per class: {shots}; with fewer than {FEWEST_SHOTS} the target class may not be "
            "found, or a wrong one named, and the backdoor stay; give more images if you can"
        )
    return notes
