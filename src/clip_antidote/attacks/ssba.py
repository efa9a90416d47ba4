"""SSBA against CLIP: a hidden message in a share of the images, captioned as the target."""

from pydantic import Field

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.triggers.ssba import SsbaConfig, SsbaTrigger


class SsbaAttackConfig(AttackConfig):
    """Settings of the attack and of its message; a faint trigger takes more steps, and less ASR is asked for."""

    trigger: SsbaConfig = SsbaConfig()
    training: TrainingConfig = TrainingConfig(steps=400, lr=8e-4, warmup=20)
    implant_asr: float = Field(0.8, ge=0, le=1)


class SsbaAttack(FixedTriggerAttack):
    """Li et al. 2021 (arXiv 2012.03816), carried over to CLIP with its own encoder of messages."""

    name = "ssba"
    config_class = SsbaAttackConfig
    trigger_class = SsbaTrigger
