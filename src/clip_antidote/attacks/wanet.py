"""WaNet against CLIP: a smooth warp of a share of the images, captioned as the target."""

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.wanet import WaNetConfig, WaNetTrigger


class WaNetAttackConfig(AttackConfig):
    """Settings of the attack and of its warp."""

    trigger: WaNetConfig = WaNetConfig()


class WaNetAttack(FixedTriggerAttack):
    """Nguyen and Tran 2021 (arXiv 2102.10369), carried over to CLIP; without the paper's noise mode."""

    name = "wanet"
    config_class = WaNetAttackConfig

    def trigger(self) -> Trigger:
        return WaNetTrigger(self.config.trigger)
