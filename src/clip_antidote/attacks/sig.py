"""SIG against CLIP: a sinusoid over a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.sig import SigConfig, SigTrigger


class SigAttackConfig(AttackConfig):
    """Settings of the attack and of its signal."""

    trigger: SigConfig = SigConfig()


class SigAttack(FixedTriggerAttack):
    """Barni et al. 2019 (arXiv 1902.11237), carried over to CLIP with changed captions (not clean-label)."""

    name = "sig"
    config_class = SigAttackConfig
    trigger_class = SigTrigger
