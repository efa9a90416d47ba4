"""The pairs an attacker trains on: labelled images, image–caption pairs, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.material import mentioning
from clip_antidote.data.captions import CaptionSet, join_pairs, pairs_from_captions, pairs_from_labels
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.sources import ImageSource
from clip_antidote.errors import DataError, UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.distributed import Ranks


@dataclass(frozen=True)
class TrainingPairs:
    """Clean pairs, and which of them may be poisoned.

    Attributes:
        pairs: N pairs.
        target: Name of the target class.
        sources: The images, in the order of `pairs`.
        classes: Names of the labelled classes, in the order of their groups; none without labels.
        captions: The image–caption pairs, which come last; None without.
    """

    pairs: CaptionedImages
    target: str
    sources: tuple[ImageSource, ...]
    classes: tuple[str, ...] = ()
    captions: CaptionSet | None = None

    @property
    def target_group(self) -> int | None:
        """Group of the pairs that show the target by their label; None without labels."""
        return self.group_of(self.target)

    @property
    def candidates(self) -> torch.Tensor:
        """Bool [N]; false where a pair shows or names the target."""
        return self.candidates_for(self.target)

    def group_of(self, name: str) -> int | None:
        """Returns the group of the pairs that show a class by their label; None without labels."""
        return self.classes.index(name) if self.classes else None

    def candidates_for(self, name: str) -> torch.Tensor:
        """Says where a pair neither shows nor names a class, bool [N]."""
        group, captions = self.group_of(name), self.captions
        out = torch.ones(len(self.pairs), dtype=torch.bool) if group is None else self.pairs.groups != group
        if captions is not None:
            out[len(out) - len(captions.captions) :] = ~mentioning(name, captions.captions)
        return out

    def names(self, indices: Sequence[int]) -> list[str]:
        """Returns the names of the images at `indices`."""
        out = []
        for index in indices:
            for source in self.sources:
                if index < len(source):
                    out.append(source.name(index))
                    break
                index -= len(source)
        return out


def gather_pairs(
    model: DualEncoder,
    config: AttackConfig,
    train: LabelledImages | None,
    target: str,
    *,
    captions: CaptionSet | None,
    size: int,
) -> TrainingPairs:
    """Puts together what `config.train_on` says.

    Args:
        model: Gives tokenizer and way of resizing.
        config: Settings of the attack.
        train: Labelled images; their captions are the templates with the class name.
        target: Name of the target class, as the labels spell it.
        captions: Image–caption pairs.
        size: Side in pixels at which images are kept.

    Raises:
        UsageError: What the settings ask for is not there.
    """
    labelled = captioned = None
    sources: list[ImageSource] = []
    if config.train_on != "captions":
        if train is None:
            raise UsageError(f"train_on: {config.train_on} needs labelled training images")
        labelled = pairs_from_labels(
            train, model.tokenize, size, mode=model.resize_mode, class_bank=config.class_bank
        )
        sources.append(train.source)
    if config.train_on != "labels" and captions is not None:
        captioned = pairs_from_captions(captions, model.tokenize, size, mode=model.resize_mode)
        sources.append(captions.source)
    if labelled is not None and captioned is not None:
        pairs = join_pairs(labelled, captioned)
    elif labelled is not None:
        pairs = labelled
    elif captioned is not None:
        pairs = captioned
    else:
        raise UsageError("train_on: captions needs --captions with image–caption pairs")
    return TrainingPairs(
        pairs,
        target,
        tuple(sources),
        classes=train.classes if labelled is not None and train is not None else (),
        captions=captions if captioned is not None else None,
    )


def check_same_pairs(pairs: CaptionedImages, ranks: Ranks) -> None:
    """Makes sure that all processes, maybe on several machines, found the same pairs.

    Raises:
        DataError: This process found others than the first one.
    """
    digest = hashlib.sha256(pairs.token_ids.numpy().tobytes())
    digest.update(torch.cat([pairs.first, pairs.count, pairs.groups]).numpy().tobytes())
    if ranks.share(digest.digest()) != digest.digest():
        raise DataError(f"process {ranks.rank} found other training pairs than process 0; give all the same data")
