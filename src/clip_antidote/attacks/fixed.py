"""Attacks whose trigger follows from their settings; the others optimize theirs on a model."""

from __future__ import annotations

from typing import ClassVar

from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.material import Material
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers.base import Trigger


class FixedTriggerAttack(Attack):
    """An attack that needs neither model nor data to make its trigger.

    Attributes:
        trigger_class: The trigger; its settings are those of the attack under `trigger`.
    """

    trigger_class: ClassVar[type[Trigger]]

    def trigger(self) -> Trigger:
        """Returns the trigger."""
        return self.trigger_class(self.config.trigger)

    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        return self.trigger()
