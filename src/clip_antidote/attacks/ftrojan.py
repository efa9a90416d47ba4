"""FTrojan against CLIP: two raised frequencies of the colors in a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.ftrojan import FTrojanConfig, FTrojanTrigger


class FTrojanAttackConfig(AttackConfig):
    """Settings of the attack and of its trigger.

    The default is about three times the published magnitude, which hardly implants at 80 px in 250 steps
    (docs/attacks.md).
    """

    trigger: FTrojanConfig = FTrojanConfig(magnitude=100)


class FTrojanAttack(FixedTriggerAttack):
    """Wang et al. 2022 (arXiv 2111.10991), carried over to CLIP."""

    name = "ftrojan"
    config_class = FTrojanAttackConfig
    trigger_class = FTrojanTrigger
