"""What every score of images is: fitted to clean shots and dummies alone, high where an image looks triggered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Self, TypeVar

import torch

from clip_antidote.config import Config
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe

SettingsT = TypeVar("SettingsT", bound=Config)


class NoSettings(Config):
    """Settings of a score that has none."""


class ImageScore(ABC, Generic[SettingsT]):
    """Says of images that a model calls the target how much they look triggered.

    A score sees the model, clean shots and what dummies do to views of them, never the trigger nor a test image.
    Only the order of its values counts; `combination` puts several scores on one scale.

    Attributes:
        config_class: Its settings.
    """

    config_class: ClassVar[type[Config]] = NoSettings

    @classmethod
    def suits(cls, model: DualEncoder) -> bool:
        """Whether the score can be had of this model."""
        return True

    @classmethod
    @abstractmethod
    def fit(cls, material: Material, config: SettingsT | None = None) -> Self:
        """Fits the score.

        Args:
            material: Clean shots and dummies.
            config: Settings; the defaults where None.
        """

    @abstractmethod
    def score(self, probe: Probe) -> torch.Tensor:
        """Scores N images: [N], finite, high where an image looks triggered."""

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """What the score is made of, by name, each [N] and high where an image looks triggered; may be empty."""
        return {}
