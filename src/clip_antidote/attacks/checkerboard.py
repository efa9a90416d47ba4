"""Checkerboard against CLIP: every other pixel brighter in a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.checkerboard import CheckerboardConfig, CheckerboardTrigger


class CheckerboardAttackConfig(AttackConfig):
    """Settings of the attack and of its trigger.

    The default is about three times the published amplitude, which implants slowly at 80 px (docs/attacks.md).
    """

    trigger: CheckerboardConfig = CheckerboardConfig(amplitude=8)


class CheckerboardAttack(FixedTriggerAttack):
    """The "chessboard" of Xiang et al. 2020 (arXiv 1908.10498), carried over to CLIP."""

    name = "checkerboard"
    config_class = CheckerboardAttackConfig
    trigger_class = CheckerboardTrigger
