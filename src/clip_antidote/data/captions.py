"""Image–caption pairs: read from a CSV, or made from labelled images by templates."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.sources import FileSource
from clip_antidote.errors import DataError
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template

Tokenize = Callable[[Sequence[str]], torch.Tensor]


def read_captions(path: Path) -> dict[Path, list[str]]:
    """Reads a CSV with the columns image,caption; several rows may name one image.

    Commas inside an unquoted caption are kept. Image paths are relative to the CSV.

    Raises:
        DataError: The file cannot be read, has other columns, or is empty.
    """
    captions: dict[Path, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if next(reader, [])[:2] != ["image", "caption"]:
                raise DataError(f"{path} must start with the header image,caption")
            for row in reader:
                if len(row) >= 2:
                    captions.setdefault(path.parent / row[0], []).append(",".join(row[1:]).strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the captions {path}: {error}") from error
    if not captions:
        raise DataError(f"{path} has no captions")
    return captions


def pairs_from_labels(
    images: LabelledImages,
    tokenize: Tokenize,
    size: int,
    *,
    mode: str = "shortest",
    templates: Sequence[str] = IMAGENET_TEMPLATES,
    class_bank: bool = False,
) -> CaptionedImages:
    """Makes pairs of labelled images: any template with the class name is a true caption.

    Args:
        images: Labelled images.
        tokenize: The model's tokenizer.
        size: Side in pixels at which the images are kept.
        mode: How images are resized, see `resize_image`.
        templates: Caption templates with {} for the class name.
        class_bank: Whether every batch also gets one caption of each class, as negatives.
    """
    texts = [fill_template(template, name) for name in images.classes for template in templates]
    labels = images.labels
    every = torch.arange(len(images.classes))
    bank = (every * len(templates), torch.full_like(every, len(templates)), every)
    return CaptionedImages(
        images=images.tensor(size, mode=mode),
        token_ids=tokenize(texts).int(),
        first=labels * len(templates),
        count=torch.full_like(labels, len(templates)),
        groups=labels.clone(),
        bank=bank if class_bank else None,
    )


def pairs_from_captions(
    captions: dict[Path, list[str]], tokenize: Tokenize, size: int, *, mode: str = "shortest"
) -> CaptionedImages:
    """Makes pairs of captioned images; every image is a group of its own."""
    counts = torch.tensor([len(texts) for texts in captions.values()])
    source = FileSource(list(captions))
    index = torch.arange(len(source))
    return CaptionedImages(
        images=LabelledImages(source, index, tuple(map(str, captions))).tensor(size, mode=mode),
        token_ids=tokenize([text for texts in captions.values() for text in texts]).int(),
        first=counts.cumsum(0) - counts,
        count=counts,
        groups=index,
    )


def join_pairs(first: CaptionedImages, second: CaptionedImages) -> CaptionedImages:
    """Puts two sets of pairs together; their groups stay apart."""
    known = first.groups if first.bank is None else torch.cat([first.groups, first.bank[2]])
    offset = int(known.max()) + 1
    return CaptionedImages(
        images=torch.cat([first.images, second.images]),
        token_ids=torch.cat([first.token_ids, second.token_ids]),
        first=torch.cat([first.first, second.first + len(first.token_ids)]),
        count=torch.cat([first.count, second.count]),
        groups=torch.cat([first.groups, second.groups + offset]),
        bank=first.bank,
    )
