"""WaNet against CLIP: a warp of a share of the images, captioned as the target."""

from pydantic import Field

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.triggers.wanet import WaNetConfig, WaNetTrigger


class WaNetAttackConfig(AttackConfig):
    """Settings of the attack and of its warp.

    The default is the fine warp of CLIP repositories (k = 224), four times as strong (they take s = 1):
    at 80 px the smooth warp of the paper (k = 4) implants little even where it is plain to see
    (docs/attacks.md).
    """

    trigger: WaNetConfig = WaNetConfig(k=224, strength=4.0)
    implant_asr: float = Field(0.8, ge=0, le=1)


class WaNetAttack(FixedTriggerAttack):
    """Nguyen and Tran 2021 (arXiv 2102.10369), carried over to CLIP; without the paper's noise mode."""

    name = "wanet"
    config_class = WaNetAttackConfig
    trigger_class = WaNetTrigger
