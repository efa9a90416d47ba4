"""Blended against CLIP: a faint pattern in a share of the images, captioned as the target."""

from clip_antidote.attacks.base import Attack, AttackConfig
from clip_antidote.attacks.material import Material
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.blended import BlendedConfig, BlendedTrigger


class BlendedAttackConfig(AttackConfig):
    """Settings of the attack and of its pattern."""

    trigger: BlendedConfig = BlendedConfig()


class BlendedAttack(Attack):
    """Chen et al. 2017 (arXiv 1712.05526), carried over to CLIP."""

    name = "blended"
    config_class = BlendedAttackConfig

    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        return BlendedTrigger(self.config.trigger)
