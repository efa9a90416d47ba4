"""Blended against CLIP: a faint pattern in a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.blended import BlendedConfig, BlendedTrigger


class BlendedAttackConfig(AttackConfig):
    """Settings of the attack and of its pattern."""

    trigger: BlendedConfig = BlendedConfig()


class BlendedAttack(FixedTriggerAttack):
    """Chen et al. 2017 (arXiv 1712.05526), carried over to CLIP."""

    name = "blended"
    config_class = BlendedAttackConfig
    trigger_class = BlendedTrigger
