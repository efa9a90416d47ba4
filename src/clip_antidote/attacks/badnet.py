"""BadNet against CLIP: a patch in a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger


class BadNetAttackConfig(AttackConfig):
    """Settings of the attack and of its patch."""

    trigger: BadNetConfig = BadNetConfig()


class BadNetAttack(FixedTriggerAttack):
    """Gu et al. 2017 (arXiv 1708.06733), carried over to CLIP as in Carlini and Terzis 2021."""

    name = "badnet"
    config_class = BadNetAttackConfig
    trigger_class = BadNetTrigger
