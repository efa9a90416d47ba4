"""`detect()`: one call for every detector of models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from clip_antidote.config import Config
from clip_antidote.data.images import LabelledImages
from clip_antidote.detectors import DETECTORS
from clip_antidote.detectors.base import Detected, Detector, Given
from clip_antidote.errors import DataError, ModelError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, zero_shot_weights

FEWEST_IMAGES = 2
"""Images that can be compared with each other."""


def make_detector(name: str, settings: Mapping[str, Any] | Config | None = None) -> Detector[Any]:
    """Makes a detector with its settings.

    Args:
        name: One of `clip-antidote ls detectors`.
        settings: Settings by their names, or whole; defaults for what is not named.

    Raises:
        UsageError: There is no such detector or setting.
    """
    made = DETECTORS.get(name)
    values = settings.model_dump() if isinstance(settings, Config) else dict(settings or {})
    return made(made.config_class.build(values))


def detect(
    model: DualEncoder,
    shots: LabelledImages,
    detector: Detector[Any],
    *,
    seed: int = 0,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
) -> Detected:
    """Lets a detector look at a model, which is left as it is.

    Args:
        model: The suspect.
        shots: Clean labelled images.
        detector: See `make_detector`.
        seed: Seed of everything random.
        templates: Templates of the hand-written classifier, for detectors that look at it.

    Raises:
        DataError: There are too few images.
        ModelError: The model's features are not finite.
    """
    if len(shots) < FEWEST_IMAGES:
        raise DataError(f"a detector needs at least {FEWEST_IMAGES} clean images, not {len(shots)}; give more")
    start = time.perf_counter()
    weights = None
    if detector.needs_texts:
        weights = zero_shot_weights(model, shots.classes, templates).to(model.device)
        if not bool(weights.isfinite().all()):
            raise ModelError(
                "the model gives features of the class names that are not finite; its weights are broken"
            )
    images = shots.tensor(model.image_size, mode=model.resize_mode)
    with model.frozen():
        found = detector.detect(Given(model, shots, images, seed, weights))
    seconds = round(time.perf_counter() - start, 2)
    decision = found.decision.model_copy(update={"clean_images": len(shots), "seconds": seconds})
    return Detected(decision, found.triggers)
