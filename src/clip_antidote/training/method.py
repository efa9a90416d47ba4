"""The interface of a training method: the same pairs, trained on in one way or another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny

from clip_antidote.config import Config
from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.errors import UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.augment import color_jitter, random_crops
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.finetune import Transform, cropped_batches
from clip_antidote.training.loop import ExtraLoss, TrainingConfig
from clip_antidote.training.methods import METHODS, PLAIN


class MethodConfig(Config):
    """Settings of a training method.

    Attributes:
        name: Its name, see `clip-antidote ls training-methods`.
    """

    name: str = PLAIN


def read_method(value: Any) -> Any:
    """Makes the settings of a method of its name, or of a mapping with its name.

    Raises:
        UsageError: There is no such method, or a setting is wrong.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        return value  # settings already, or nothing that pydantic takes
    return METHODS.get(str(value.get("name", PLAIN))).config_class.build(value)


AnyMethod = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(read_method)]
"""A field for the settings of any method: written as a name, or as a mapping with `name`."""


class DefendedConfig(MethodConfig):
    """Settings of a method that defends.

    Attributes:
        min_scale: Smallest crop of its augmentation, as share of the area; other than the crop that every training
            begins with, it is taken of images that carry their trigger already, as stored poisoned images would.
        jitter: Brightness, contrast and saturation vary by this share.
        rewording: Share of the words of a caption that its augmentation moves or leaves out.
    """

    min_scale: float = Field(0.5, gt=0, le=1)
    jitter: float = Field(0.5, ge=0, lt=1)
    rewording: float = Field(0.1, ge=0, le=1)


@dataclass(frozen=True)
class Task:
    """What is to be trained, on what.

    Attributes:
        model: The model, trained in place.
        pairs: Image–caption pairs.
        config: Settings of the training.
        min_scale: Smallest crop as share of the area.
        seed: Seed of batches, crops and whatever a method draws.
        transform: What is done to images after the crop, such as putting a trigger on some of them.
        extra_loss: What one who controls the training adds to the loss.
        description: Label of the progress bar.
        state_file: Training state to resume from and to keep.
    """

    model: DualEncoder
    pairs: CaptionedImages
    config: TrainingConfig
    min_scale: float = 0.5
    seed: int = 0
    transform: Transform | None = None
    extra_loss: ExtraLoss | None = None
    description: str = "training"
    state_file: Path | None = None

    def batches(self) -> Callable[[int], PairBatch]:
        """Returns what makes the batch of a step, as the plain training has it."""
        return cropped_batches(
            self.model,
            self.pairs,
            batch_size=self.config.batch_size,
            min_scale=self.min_scale,
            seed=self.seed,
            transform=self.transform,
        )

    def passes(self, steps: int) -> int:
        """How many whole passes over the data so many steps are: the number, from 0, of the pass a step begins in."""
        return steps * self.config.batch_size // len(self.pairs)


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        losses: The loss of every step run in this call.
        details: What a method says about itself, ready for JSON.
        safe: Bool [N], for which pairs image and caption were trained to match at the end; None where for all.
    """

    losses: list[float]
    details: dict[str, Any] = field(default_factory=dict)
    safe: torch.Tensor | None = None


class Method(ABC):
    """A way to train.

    Args:
        config: Settings.
    """

    config_class: ClassVar[type[MethodConfig]]

    def __init__(self, config: Any = None) -> None:
        self.config: Any = config if config is not None else self.config_class()

    @abstractmethod
    def train(self, task: Task) -> Trained:
        """Trains the model of the task in place."""


def method_for(config: MethodConfig) -> Method:
    """Returns the method that these settings are of."""
    return METHODS.get(config.name)(config)


def require_alone(name: str, task: Task) -> None:
    """Refuses what a method that defends cannot do.

    Raises:
        UsageError: Several processes train together, batches are accumulated, or an attacker adds to the loss.
    """
    if Ranks.current().count > 1:
        raise UsageError(f"the training method '{name}' works in one process; start it without torchrun")
    if task.config.accumulate > 1:
        raise UsageError(f"the training method '{name}' takes a batch as a whole; leave accumulate at 1")
    if task.extra_loss is not None:
        raise UsageError(
            f"this attack adds to the loss, so its attacker controls the training; the training method '{name}' "
            "defends one that the attacker gave data to"
        )


def other_view(images: torch.Tensor, config: DefendedConfig, generator: torch.Generator) -> torch.Tensor:
    """Crops, mirrors and jitters images [N, 3, S, S] in [0, 1] once more, each by itself."""
    views = random_crops(images, images.shape[-1], min_scale=config.min_scale, generator=generator)
    return color_jitter(views, strength=config.jitter, generator=generator) if config.jitter else views
