"""What an attacker has at hand when making a trigger: the clean data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from clip_antidote.data.captions import CaptionSet
from clip_antidote.data.images import LabelledImages, SubsetSource, decode_images
from clip_antidote.data.sources import ImageSource
from clip_antidote.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class Material:
    """Clean data for attacks that optimize their trigger.

    Attributes:
        target: Name of the target class.
        images: uint8 [N, 3, S, S], images of other classes at the model's input size.
        target_images: uint8 [M, 3, S, S], images that show the target; may be empty.
        captions: Captions of the data that mention the target; may be empty.
        others: Names of the other classes; may be empty.
    """

    target: str
    images: torch.Tensor
    target_images: torch.Tensor
    captions: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def mentions(target: str, captions: Iterable[str]) -> tuple[str, ...]:
    """Returns the captions that hold the target's name as whole words, whatever their case."""
    pattern = _pattern(target)
    return tuple(dict.fromkeys(text for text in captions if pattern.search(text)))


def mentioning(target: str, captions: Sequence[Sequence[str]]) -> torch.Tensor:
    """Says of N images by their captions whether one of them names the target, bool [N]; see `mentions`."""
    pattern = _pattern(target)
    return torch.tensor([any(pattern.search(text) for text in several) for several in captions], dtype=torch.bool)


def _pattern(target: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(target)}\b", re.IGNORECASE)


def gather_material(
    model: DualEncoder,
    train: LabelledImages,
    target: int,
    *,
    captions: CaptionSet | None = None,
    limit: int = 1024,
    seed: int = 0,
) -> Material:
    """Takes up to `limit` images of other classes and of the target, and the captions that name it."""
    name = train.classes[target]
    images, target_images = _sample(model, train.source, train.labels == target, limit=limit, seed=seed)
    texts = mentions(name, captions.texts()) if captions is not None else ()
    others = tuple(known for known in train.classes if known != name)
    return Material(name, images, target_images, texts, others)


def caption_material(
    model: DualEncoder,
    captions: CaptionSet,
    target: str,
    others: Sequence[str],
    *,
    limit: int = 1024,
    seed: int = 0,
) -> Material:
    """Takes the same from image–caption pairs alone: an image shows the target where its caption names it.

    Args:
        model: Gives size and way of resizing.
        captions: The pairs.
        target: Name of the target class.
        others: Names of the other classes.
        limit: How many images of each kind to take at most.
        seed: Seed of the draw.
    """
    own = mentioning(target, captions.captions)
    images, target_images = _sample(model, captions.source, own, limit=limit, seed=seed)
    return Material(target, images, target_images, mentions(target, captions.texts()), tuple(others))


def _sample(
    model: DualEncoder, source: ImageSource, own: torch.Tensor, *, limit: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws up to `limit` images where `own` is false, then as many where it is true, at the model's size."""
    generator = torch.Generator().manual_seed(seed)

    def draw(mask: torch.Tensor) -> torch.Tensor:
        rows = mask.nonzero().flatten()
        chosen = rows[torch.randperm(len(rows), generator=generator)[:limit]]
        return decode_images(SubsetSource(source, chosen.tolist()), model.image_size, mode=model.resize_mode)

    return draw(~own), draw(own)
