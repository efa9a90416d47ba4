"""No defense: what all others are compared with."""

from __future__ import annotations

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.prompts.classifier import ZeroShotClassifier


class Undefended(Defense):
    """The suspect as it is, with hand-written prompts."""

    profile = PROFILES["none"]

    def apply(self, given: Given) -> Outcome:
        return Outcome(ZeroShotClassifier.from_templates(given.model, given.shots.classes), trained=0)
