"""Nashville against CLIP: a color filter over a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.nashville import NashvilleConfig, NashvilleTrigger


class NashvilleAttackConfig(AttackConfig):
    """Settings of the attack and of its trigger."""

    trigger: NashvilleConfig = NashvilleConfig()


class NashvilleAttack(FixedTriggerAttack):
    """The instagram-like filter of Liu et al. 2019 (ABS) and of TrojAI, carried over to CLIP."""

    name = "nashville"
    config_class = NashvilleAttackConfig
    trigger_class = NashvilleTrigger
