"""Class-wise backdoor prompt tuning, its parts, and its ceiling."""

from __future__ import annotations

from typing import ClassVar, Literal

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.base import Defense, Truth
from clip_antidote.detection.search import known_triggers
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify

Family = Literal["mask", "additive"]


class CBPT(Defense):
    """`purify` with the settings that are given."""

    families: ClassVar[tuple[Family, ...] | None] = None

    def defend(
        self, model: DualEncoder, shots: LabelledImages, config: CBPTConfig, truth: Truth
    ) -> ZeroShotClassifier:
        if self.families is not None:
            inversion = config.inversion.model_copy(update={"families": self.families})
            config = config.model_copy(update={"inversion": inversion})
        return purify(model, shots, config)


class MaskCBPT(CBPT):
    """With mask dummies only."""

    families = ("mask",)


class AdditiveCBPT(CBPT):
    """With additive dummies only."""

    families = ("additive",)


class CleanPrompts(Defense):
    """Class-wise prompts tuned on clean images alone (class-specific CoOp, Zhou et al. 2022)."""

    def defend(
        self, model: DualEncoder, shots: LabelledImages, config: CBPTConfig, truth: Truth
    ) -> ZeroShotClassifier:
        return purify(model, shots, config, source=known_triggers([]))


class Oracle(Defense):
    """CBPT with the true trigger in the place of the dummies."""

    blind = False

    def defend(
        self, model: DualEncoder, shots: LabelledImages, config: CBPTConfig, truth: Truth
    ) -> ZeroShotClassifier:
        if truth.trigger is None:
            return purify(model, shots, config, source=known_triggers([]))
        return purify(model, shots, config, source=known_triggers([truth.trigger], truth.target))
