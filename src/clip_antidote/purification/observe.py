"""The first stage of a purification: views of the clean shots and the hand-written classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError, ModelError
from clip_antidote.inversion.views import Observation, make_views
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, zero_shot_weights
from clip_antidote.purification.config import CBPTConfig


def observe(
    model: DualEncoder,
    shots: LabelledImages,
    config: CBPTConfig,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
    weights: torch.Tensor | None = None,
) -> Observation:
    """Looks at a suspect model through its clean shots.

    Args:
        model: The suspect.
        shots: A few clean labelled images per class.
        config: Settings.
        templates: Templates of the hand-written classifier.
        weights: Its class weights [C, D], where they are known already.

    Raises:
        DataError: There are no shots of some class.
        ModelError: The model's features are not finite.
    """
    counts = shots.labels.bincount(minlength=len(shots.classes))
    if len(shots) == 0 or int(counts.min()) == 0:
        raise DataError(f"there is no clean image of the class '{shots.classes[int(counts.argmin())]}'")
    if weights is None:
        weights = zero_shot_weights(model, shots.classes, templates)
    views = config.views_per_shot(len(shots))
    pool = make_views(
        model, shots, views=views, min_scale=config.min_scale, seed=config.seed, precision=config.precision
    )
    for features, what in ((pool.features, "clean images"), (weights, "class names")):
        if not bool(features.isfinite().all()):
            raise ModelError(f"the model gives features of the {what} that are not finite; its weights are broken")
    return Observation(model, shots, weights.cpu(), pool, config.precision)
