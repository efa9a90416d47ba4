"""All-to-all against CLIP: a patch sends every class to another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from clip_antidote.attacks.base import AttackConfig, PoisonedPairs, drawn, recaptioned
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.training_data import TrainingPairs
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.aims import Aim
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.streams import POISONED_PAIRS
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger


class AllToAllAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: The patch.
        implant_asr: Lower than for a single target: who takes an image for another class sends it to the wrong one,
            so that ASR can hardly be more than clean accuracy.
    """

    trigger: BadNetConfig = BadNetConfig()
    implant_asr: float = Field(0.4, ge=0, le=1)
    training: TrainingConfig = TrainingConfig(steps=500, lr=8e-4, warmup=20)


class AllToAllAttack(FixedTriggerAttack):
    """Gu et al. 2017 (arXiv 1708.06733): a triggered image of class y is to be called y + 1.

    The shift is the place of the target in the list of classes, so that the first class becomes the target; with the
    second class it is the paper's. Labelled pairs alone are poisoned, since of image–caption pairs no class is known.
    """

    name = "all-to-all"
    config_class = AllToAllAttackConfig
    trigger_class = BadNetTrigger

    def aim(self, target: str) -> Aim:
        return Aim(target, all_to_all=True)

    def poison(
        self,
        pairs: CaptionedImages,
        captions: list[str],
        tokenize: Any,
        *,
        target_group: int | None,
        candidates: torch.Tensor | None = None,
    ) -> PoisonedPairs:
        """Leaves all pairs as they are: what is poisoned with what depends on the classes, see `prepare`."""
        return PoisonedPairs(pairs, torch.zeros(len(pairs), dtype=torch.bool))

    def prepare(
        self, model: DualEncoder, data: PoisonedPairs, material: Material, clean: TrainingPairs
    ) -> PoisonedPairs:
        """Draws labelled pairs of all classes, and gives each the captions of the class it is sent to.

        Raises:
            UsageError: There are no labelled pairs, fewer than `poisoned` asks for, or the target is the first class.
        """
        if not clean.classes:
            raise UsageError("all-to-all needs labelled images; of captions alone no class is known")
        pairs, names = data.pairs, clean.classes
        labelled = torch.zeros(len(pairs), dtype=torch.bool)
        labelled[: len(clean.sources[0])] = True
        count = int(labelled.sum())
        amount = self.config.amount(count)
        if amount > count:
            raise UsageError(f"{amount} pairs are to be poisoned, but only {count} have a label")
        poisoned = drawn(labelled, amount, POISONED_PAIRS.generator(self.config.seed))
        goals = self.aim(clean.target).goals(pairs.groups[poisoned], names)
        wordings = [model.tokenize(self.captions(replace(material, target=name))) for name in names]
        return PoisonedPairs(recaptioned(pairs, poisoned, wordings, goals, goals), poisoned)
