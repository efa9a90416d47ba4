"""The defenses a grid can compare: CBPT, its parts, and its ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.cleanclip import CleanCLIPConfig, cleanclip
from clip_antidote.models import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers import Trigger

Purify = Callable[[DualEncoder, LabelledImages, CBPTConfig, Trigger | None, str | None], ZeroShotClassifier]


@dataclass(frozen=True)
class Variant:
    """A defense of the grid.

    Attributes:
        text: A line about it.
        purify: Called with model, shots, settings, true trigger and true target; a blind variant
            looks at neither of the last two.
    """

    text: str
    purify: Purify


def _blind(**inversion: Any) -> Purify:
    def run(
        model: DualEncoder, shots: LabelledImages, config: CBPTConfig, trigger: Trigger | None, target: str | None
    ) -> ZeroShotClassifier:
        changed = config.inversion.model_copy(update=inversion)
        return purify(model, shots, config.model_copy(update={"inversion": changed}))

    return run


def _prompts(
    model: DualEncoder, shots: LabelledImages, config: CBPTConfig, trigger: Trigger | None, target: str | None
) -> ZeroShotClassifier:
    return purify(model, shots, config, triggers=[])


def _oracle(
    model: DualEncoder, shots: LabelledImages, config: CBPTConfig, trigger: Trigger | None, target: str | None
) -> ZeroShotClassifier:
    if trigger is None:
        return purify(model, shots, config, triggers=[])
    return purify(model, shots, config, triggers=[trigger], target=target)


def _cleanclip(self_supervision: float) -> Purify:
    def run(
        model: DualEncoder, shots: LabelledImages, config: CBPTConfig, trigger: Trigger | None, target: str | None
    ) -> ZeroShotClassifier:
        return cleanclip(model, shots, CleanCLIPConfig(self_supervision=self_supervision, seed=config.seed))

    return run


VARIANTS = {
    "cbpt": Variant("CBPT with its default settings, blind", _blind()),
    "cbpt-mask": Variant("CBPT with mask dummies only, blind", _blind(families=("mask",))),
    "cbpt-additive": Variant("CBPT with additive dummies only, blind", _blind(families=("additive",))),
    "prompts": Variant("class-wise prompts tuned on clean images only (CoOp-style)", _prompts),
    "finetune": Variant("fine-tuning of the encoders on the shots", _cleanclip(0.0)),
    "cleanclip": Variant("CleanCLIP-style fine-tuning of the encoders on the shots", _cleanclip(1.0)),
    "oracle": Variant("CBPT told the true trigger and target: the ceiling", _oracle),
}
