"""The clean data an attack works with, put in order before any work begins."""

from __future__ import annotations

from dataclasses import dataclass

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.data.captions import CaptionSet
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.aims import class_index


@dataclass(frozen=True)
class CleanData:
    """What an attacker has: labelled images, image–caption pairs, or both.

    Attributes:
        target: Name of the target class, as `classes` spell it.
        classes: Names of all classes.
        train: Labelled images; their captions are the templates with the class name.
        captions: Image–caption pairs.
    """

    target: str
    classes: tuple[str, ...]
    train: LabelledImages | None = None
    captions: CaptionSet | None = None

    @classmethod
    def gather(
        cls,
        config: AttackConfig,
        train: LabelledImages | None,
        captions: CaptionSet | None,
        *,
        classes: tuple[str, ...],
        target: str,
    ) -> CleanData:
        """Finds the target among the classes, and draws as many pairs as the settings ask for.

        Raises:
            UsageError: The target is not one of the classes.
        """
        if config.train_on != "captions" and train is not None:
            class_index(train.classes, target)  # the two must agree, and a typing mistake should be told first
        name = classes[class_index(classes, target)]
        if captions is not None and config.caption_pairs is not None:
            captions = captions.sample(config.caption_pairs, seed=config.seed)
        return cls(name, classes, train, captions)
