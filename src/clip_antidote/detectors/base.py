"""What every detector of models is: a suspect and clean images in, a score and the paper's own decision out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

import torch

from clip_antidote.config import Config, Record
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import ModelError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import Precision
from clip_antidote.triggers.mask import MaskTrigger


class DetectorConfig(Config):
    """Settings that every detector has.

    Attributes:
        precision: What the image encoder runs in; "bf16" is autocast, "auto" takes it where the device has it.
    """

    precision: Precision = "auto"


class ClassDetection(Record):
    """What a detector found for one class.

    Attributes:
        name: The class.
        score: The paper's statistic for it; which side is suspicious stands in `Decision`.
        norm: L1 norm of its mask in pixels, at least 0.
        flip_rate: Share of clean images of other classes that its mask sends to it, in [0, 1].
        reached: Whether a mask was found that does what the paper asks of it.
    """

    name: str
    score: float
    norm: float
    flip_rate: float
    reached: bool


class Decision(Record):
    """What a detector says of a model, by the rule of its paper.

    Attributes:
        detector: Its name.
        paper: Where the rule comes from.
        statistic: What `score` is, in words.
        score: The model's.
        threshold: The paper's, or the one that was set.
        side: On which side of the threshold a model is suspicious.
        suspicious: Whether it is.
        targets: Classes it names, the most suspicious first; none where it knows no classes.
        classes: Every class, in the order of the class list; empty where it knows none.
        clean_images: Clean images it was given.
        seconds: How long it took.
        notes: Sentences the reader has to see.
    """

    detector: str
    paper: str
    statistic: str
    score: float
    threshold: float
    side: Literal["above", "below"]
    suspicious: bool
    targets: tuple[str, ...] = ()
    classes: tuple[ClassDetection, ...] = ()
    clean_images: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def suspicion(self) -> float:
        """The score, turned so that it is high where a model is suspicious: what a ROC curve wants."""
        return self.score if self.side == "above" else -self.score


@dataclass(frozen=True)
class Given:
    """What a detector has to work with.

    Attributes:
        model: The suspect, frozen and in evaluation mode.
        shots: Clean labelled images.
        images: The same in the model's size, uint8 [N, 3, S, S].
        seed: Seed of where masks start and of the batches.
        weights: The hand-written class weights [C, D] on the model's device; None where no texts were encoded.
    """

    model: DualEncoder
    shots: LabelledImages
    images: torch.Tensor
    seed: int
    weights: torch.Tensor | None = None

    def generator(self) -> torch.Generator:
        """A fresh CPU generator of the seed."""
        return torch.Generator().manual_seed(self.seed)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Some of the images on the model's device, float [n, 3, S, S] in [0, 1]."""
        return self.images[rows].to(self.model.device).float() / 255


@dataclass(frozen=True)
class Detected:
    """A decision, and the triggers that it rests on.

    Attributes:
        decision: What the paper's rule says.
        triggers: One for every class, or one for the model.
    """

    decision: Decision
    triggers: tuple[MaskTrigger, ...]


ConfigT = TypeVar("ConfigT", bound=DetectorConfig)


class Detector(ABC, Generic[ConfigT]):
    """Says by the rule of its paper whether a model has a backdoor.

    Args:
        config: Settings; the defaults where None.

    Attributes:
        config_class: Its settings.
        needs_texts: Whether it looks at the hand-written class weights.
    """

    config_class: ClassVar[type[DetectorConfig]]
    needs_texts: ClassVar[bool]

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config: ConfigT = config if config is not None else self.config_class()  # type: ignore[assignment]

    @abstractmethod
    def detect(self, given: Given) -> Detected:
        """Looks at a model; called by `detect` alone, which freezes it and adds seconds and images.

        Raises:
            ModelError: The model leads to losses that are not finite.
        """


def check_finite(loss: torch.Tensor, detector: str, step: int) -> None:
    """Stops where the model leaves no numbers to go on with.

    Raises:
        ModelError: The loss is not finite.
    """
    if not bool(loss.isfinite().all()):
        raise ModelError(
            f"{detector}: the loss is not finite at step {step + 1}; look at the model with `clip-antidote inspect`"
        )
