"""What every defense looks like: a suspect model and clean images in, a classifier out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from clip_antidote.data.images import LabelledImages
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class Truth:
    """What an attacker knows; told to oracles alone.

    Attributes:
        trigger: The true trigger, None for a model without a backdoor.
        target: Name of the target class.
    """

    trigger: Trigger | None = None
    target: str | None = None


class Defense(ABC):
    """A defense of the one list that `defend`, grids and `clip-antidote ls` share.

    Attributes:
        blind: Whether it works without the truth; an oracle does not.
    """

    blind: ClassVar[bool] = True

    @abstractmethod
    def defend(
        self, model: DualEncoder, shots: LabelledImages, config: CBPTConfig, truth: Truth
    ) -> ZeroShotClassifier:
        """Makes a classifier that is to be trusted.

        Args:
            model: The suspect; left as it is.
            shots: A few clean labelled images per class.
            config: Settings of the purification; other defenses take the seed alone.
            truth: What the attacker knows. Empty for a defense that is blind.
        """
