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
        candidates: Bool [N]; false where a pair shows or names the target.
        target_group: Group of the pairs that show the target by their label; None without labels.
        sources: The images, in the order of `pairs`.
    """

    pairs: CaptionedImages
    candidates: torch.Tensor
    target_group: int | None
    sources: tuple[ImageSource, ...]

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
    target_group = None
    candidates: list[torch.Tensor] = []
    sources: list[ImageSource] = []
    if config.train_on != "captions":
        if train is None:
            raise UsageError(f"train_on: {config.train_on} needs labelled training images")
        labelled = pairs_from_labels(
            train, model.tokenize, size, mode=model.resize_mode, class_bank=config.class_bank
        )
        target_group = train.classes.index(target)
        candidates.append(labelled.groups != target_group)
        sources.append(train.source)
    if config.train_on != "labels" and captions is not None:
        captioned = pairs_from_captions(captions, model.tokenize, size, mode=model.resize_mode)
        candidates.append(~mentioning(target, captions.captions))
        sources.append(captions.source)
    if labelled is not None and captioned is not None:
        pairs = join_pairs(labelled, captioned)
    elif labelled is not None:
        pairs = labelled
    elif captioned is not None:
        pairs = captioned
    else:
        raise UsageError("train_on: captions needs --captions with image–caption pairs")
    return TrainingPairs(pairs, torch.cat(candidates), target_group, tuple(sources))


def check_same_pairs(pairs: CaptionedImages, ranks: Ranks) -> None:
    """Makes sure that all processes, maybe on several machines, found the same pairs.

    Raises:
        DataError: This process found others than the first one.
    """
    digest = hashlib.sha256(pairs.token_ids.numpy().tobytes())
    digest.update(torch.cat([pairs.first, pairs.count, pairs.groups]).numpy().tobytes())
    if ranks.share(digest.digest()) != digest.digest():
        raise DataError(f"process {ranks.rank} found other training pairs than process 0; give all the same data")
