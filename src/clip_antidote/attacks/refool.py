"""Refool against CLIP: reflections of other photographs over a share of the images, captioned as the target."""

from __future__ import annotations

from pydantic import Field

from clip_antidote.attacks.base import Attack, AttackConfig
from clip_antidote.attacks.material import Material
from clip_antidote.errors import DataError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.reflection import ReflectionConfig, ReflectionTrigger


class RefoolAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: The pane.
        pictures: How many photographs are reflected; every image gets one of them. Published: 200.
        implant_asr: As for other attacks whose trigger differs from image to image.
    """

    trigger: ReflectionConfig = ReflectionConfig()
    pictures: int = Field(8, ge=1)
    implant_asr: float = Field(0.8, ge=0, le=1)


class RefoolAttack(Attack):
    """Liu et al. 2020 (arXiv 2007.02343), carried over to CLIP with changed captions (not clean-label).

    The pictures are images of other classes from the attacker's data. The paper chooses them by what they do to a
    model trained on them, and has reflections that are out of focus too; both are left out.
    """

    name = "refool"
    config_class = RefoolAttackConfig
    config: RefoolAttackConfig

    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        if not len(material.images):
            raise DataError("a reflection needs images of classes other than the target, and there are none")
        return ReflectionTrigger(material.images[: self.config.pictures], self.config.trigger)
