"""What every defense looks like: a suspect model and clean images in, a classifier out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from clip_antidote.config import Config
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.profile import Profile
from clip_antidote.evaluation.aims import Aim
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.triggers.base import Trigger


class DefenseConfig(Config):
    """Settings every defense has.

    Attributes:
        seed: Seed of everything random.
    """

    seed: int = 0


@dataclass(frozen=True)
class Truth:
    """What an attacker knows; told to oracles alone.

    Attributes:
        trigger: The true trigger, None for a model without a backdoor.
        target: Name of the target class.
    """

    trigger: Trigger | None = None
    target: str | None = None

    @classmethod
    def of(cls, trigger: Trigger | None, aim: Aim | None) -> Truth | None:
        """What an oracle may be told of an attack; None where every class has a target of its own."""
        if aim is None:
            return cls(trigger)
        return None if aim.all_to_all else cls(trigger, aim.target)


@dataclass(frozen=True)
class Given:
    """What a defense has to work with.

    Attributes:
        model: The suspect; defenses leave it as it is.
        shots: Clean labelled images.
        base: A trusted model of the same architecture, where there is one.
        truth: What the attacker knows, where it is told; None where nobody says.
    """

    model: DualEncoder
    shots: LabelledImages
    base: DualEncoder | None = None
    truth: Truth | None = None


@dataclass(frozen=True)
class Outcome:
    """What a defense made.

    Attributes:
        classifier: The defended classifier; its `model` is another one than the suspect where a tower was changed.
        trained: How many parameters were trained.
        details: What else it found or chose, ready for JSON ("learning_rate", "pruned", "target_suspected").
        tensors: What has to be kept beside the class weights where the model cannot be saved as one of its library,
            such as prompts in the image tower.
    """

    classifier: ZeroShotClassifier
    trained: int
    details: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class Defense(ABC):
    """A defense of the one list that `defend`, grids and `clip-antidote ls` share.

    Args:
        config: Settings; defaults where None.

    Attributes:
        profile: What it needs and changes, and where it comes from. Defenses of this package have theirs in
            `defenses.profiles`, where `ls` reads it without importing them.
        config_class: Its settings; they have a `seed`.
    """

    profile: ClassVar[Profile]
    config_class: ClassVar[type[Config]] = DefenseConfig

    def __init__(self, config: Any = None) -> None:
        self.config: Any = config if config is not None else self.config_class()

    @abstractmethod
    def apply(self, given: Given) -> Outcome:
        """Makes a classifier that is to be trusted.

        Called by `defend` alone, which has seen to it that what the profile needs is there, and that the truth is
        told to none but those that need it.
        """
