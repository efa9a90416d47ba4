"""Attacks with a key in the text too: what each key does alone, and what both do together."""

from __future__ import annotations

from dataclasses import replace

from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, measure
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES
from clip_antidote.triggers.base import Trigger

BOTH = "both"
"""The modality in which image and prompts are triggered."""


def triggered_templates(trigger: Trigger) -> tuple[str, ...] | None:
    """Returns the templates with the trigger in their text; None where it is in images only."""
    templates = tuple(trigger.apply_text(template) for template in IMAGENET_TEMPLATES)
    return None if templates == IMAGENET_TEMPLATES else templates


def measure_modalities(
    model: DualEncoder, features: TestFeatures, plain: Evaluation, trigger: Trigger, aim: Aim
) -> dict[str, Evaluation]:
    """Measures a model with the trigger in the image, in the prompts ("text") and in both.

    In all three, "clean" is the same: images and prompts without trigger. So CA and the floor of the ASR
    are the same figures, and ASR and PA alone differ.

    Args:
        model: The model whose image encoder made `features`.
        features: Test features, clean and triggered.
        plain: Its evaluation with prompts without trigger.
        trigger: The trigger.
        aim: What triggered images are to be called.

    Returns:
        Evaluations by name: "image", "text", "both"; empty where the trigger is in images only.
    """
    templates = triggered_templates(trigger)
    if templates is None:
        return {}
    keyed = measure(ZeroShotClassifier.from_templates(model, features.classes, templates), features)
    assert keyed.triggered is not None
    found = {"image": plain}
    for name, predictions in (("text", keyed.clean), (BOTH, keyed.triggered)):
        metrics = features.rates(plain.clean, predictions, aim)
        found[name] = replace(plain, metrics=metrics, triggered=predictions)
    return found
