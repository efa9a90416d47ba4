"""FTrojan against CLIP: two raised frequencies of the colors in a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.ftrojan import FTrojanConfig, FTrojanTrigger


class FTrojanAttackConfig(AttackConfig):
    """Settings of the attack and of its trigger."""

    trigger: FTrojanConfig = FTrojanConfig()


class FTrojanAttack(FixedTriggerAttack):
    """Wang et al. 2022 (arXiv 2111.10991), carried over to CLIP."""

    name = "ftrojan"
    config_class = FTrojanAttackConfig
    trigger_class = FTrojanTrigger
