"""Adap-Blend against CLIP: half of a blend when training, all of it later, and covers with true captions."""

from pydantic import Field

from clip_antidote.attacks.covered import CoveredAttack, CoveredAttackConfig
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.pieces import PiecesConfig, PiecesTrigger


class AdapBlendAttackConfig(CoveredAttackConfig):
    """Settings of the attack: 16 pieces, half of them shown when training, a cover per poisoned pair, as published.

    Attributes:
        trigger: The blend that the attack is carried out with.
        planted: Share of its pieces that an image gets when training.
    """

    trigger: PiecesConfig = PiecesConfig()
    planted: float = Field(0.5, gt=0, le=1)


class AdapBlendAttack(CoveredAttack):
    """Qi et al. 2023 (ICLR), carried over to CLIP.

    Other than there, the pattern is noise, and which pieces an image gets is drawn anew whenever it is seen.
    """

    name = "adap-blend"
    config_class = AdapBlendAttackConfig
    trigger_class = PiecesTrigger

    def training_triggers(self, trigger: Trigger) -> tuple[Trigger, ...]:
        return (PiecesTrigger(self.config.trigger.showing(self.config.planted)),)
