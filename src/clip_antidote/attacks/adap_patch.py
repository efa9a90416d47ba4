"""Adap-Patch against CLIP: one of four faint patches when training, two plain ones later, and covers."""

from clip_antidote.attacks.covered import CoveredAttack, CoveredAttackConfig
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.patches import CORNERS, Opacity, PatchesConfig, PatchesTrigger


class AdapPatchAttackConfig(CoveredAttackConfig):
    """Settings of the attack; the opacities are the published ones (CIFAR-10).

    The default has half of the published covers, one per poisoned pair: with two, 400 steps miss the implant
    check (docs/attacks.md).

    Attributes:
        trigger: The patches that the attack is carried out with: two of the four, plain.
        planted: Opacities of the four patches, one in each corner, of which an image gets one when training.
    """

    trigger: PatchesConfig = PatchesConfig(positions=("top-left", "bottom-left"), opacities=(1.0, 1.0))
    planted: tuple[Opacity, Opacity, Opacity, Opacity] = (0.5, 0.2, 0.5, 0.3)
    training: TrainingConfig = TrainingConfig(steps=400, lr=8e-4, warmup=20)


class AdapPatchAttack(CoveredAttack):
    """Qi et al. 2023 (ICLR), carried over to CLIP.

    Other than there, the patches are noise, and which one an image gets is drawn anew whenever it is seen.
    """

    name = "adap-patch"
    config_class = AdapPatchAttackConfig
    trigger_class = PatchesTrigger

    def training_triggers(self, trigger: Trigger) -> tuple[Trigger, ...]:
        faint = {"positions": CORNERS, "opacities": self.config.planted, "shown": 1}
        return (PatchesTrigger(self.config.trigger.model_copy(update=faint)),)
