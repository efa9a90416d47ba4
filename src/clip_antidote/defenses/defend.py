"""`defend()`: one call for every defense."""

from __future__ import annotations

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.base import Truth
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig


def defend(
    name: str,
    model: DualEncoder,
    shots: LabelledImages,
    config: CBPTConfig | None = None,
    *,
    truth: Truth | None = None,
) -> ZeroShotClassifier:
    """Runs a defense by its name.

    Args:
        name: One of `clip-antidote ls defenses`.
        model: The suspect; left as it is.
        shots: A few clean labelled images per class.
        config: Settings of the purification; other defenses take the seed alone.
        truth: What the attacker knows; kept from every defense that is blind.

    Raises:
        UsageError: There is no such defense.
    """
    defense = DEFENSES.get(name)()
    told = truth if truth is not None and not defense.blind else Truth()
    return defense.defend(model, shots, config or CBPTConfig(), told)
