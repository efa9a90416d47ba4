"""What an attacker has at hand when making a trigger: the clean data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class Material:
    """Clean data for attacks that optimize their trigger.

    Attributes:
        target: Name of the target class.
        images: uint8 [N, 3, S, S], images of other classes at the model's input size.
        target_images: uint8 [M, 3, S, S], images that show the target; may be empty.
        captions: Captions of the data that mention the target; may be empty.
    """

    target: str
    images: torch.Tensor
    target_images: torch.Tensor
    captions: tuple[str, ...] = ()


def mentions(target: str, captions: Iterable[str]) -> tuple[str, ...]:
    """Returns the captions that hold the target's name as whole words, whatever their case."""
    pattern = re.compile(rf"\b{re.escape(target)}\b", re.IGNORECASE)
    return tuple(dict.fromkeys(text for text in captions if pattern.search(text)))


def gather_material(
    model: DualEncoder,
    train: LabelledImages,
    target: int,
    *,
    captions: dict[Path, list[str]] | None = None,
    limit: int = 1024,
    seed: int = 0,
) -> Material:
    """Takes up to `limit` images of other classes and of the target, and the captions that name it."""
    generator = torch.Generator().manual_seed(seed)
    name = train.classes[target]

    def sample(rows: torch.Tensor) -> torch.Tensor:
        chosen = rows[torch.randperm(len(rows), generator=generator)[:limit]]
        if len(chosen) == 0:
            return torch.zeros(0, 3, model.image_size, model.image_size, dtype=torch.uint8)
        return train.subset(chosen.tolist()).tensor(model.image_size, mode=model.resize_mode)

    own = train.labels == target
    texts = mentions(name, (text for several in (captions or {}).values() for text in several))
    return Material(name, sample((~own).nonzero().flatten()), sample(own.nonzero().flatten()), texts)
