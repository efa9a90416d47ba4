"""Image–caption pairs: read from a CSV or from shards, or made from labelled images by templates."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from clip_antidote.data.images import LabelledImages, SubsetSource
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.shards import expand_shards, is_shards, read_shards
from clip_antidote.data.sources import FileSource, ImageSource
from clip_antidote.data.stores import join_stores, store_images
from clip_antidote.errors import DataError
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template

Tokenize = Callable[[Sequence[str]], torch.Tensor]


_TOKENIZE_AT_ONCE = 10_000


@dataclass(frozen=True)
class CaptionSet:
    """Images, decoded later, with one or more captions each.

    Attributes:
        source: N images.
        captions: The captions of each.
    """

    source: ImageSource
    captions: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if len(self.source) != len(self.captions):
            raise DataError(f"{len(self.source)} images but captions for {len(self.captions)}")

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def from_files(cls, captions: dict[Path, list[str]]) -> Self:
        """Makes a set of image files and their captions."""
        return cls(FileSource(list(captions)), list(captions.values()))

    def texts(self) -> Iterator[str]:
        """All captions, in order."""
        return (text for several in self.captions for text in several)

    def subset(self, indices: Sequence[int]) -> CaptionSet:
        """Returns the images at `indices`, in that order."""
        return CaptionSet(SubsetSource(self.source, list(indices)), [self.captions[i] for i in indices])

    def sample(self, count: int, *, seed: int) -> CaptionSet:
        """Draws `count` images without replacement and keeps their order.

        Raises:
            DataError: There are fewer.
        """
        if count > len(self):
            raise DataError(f"{count} captioned images were asked for, but there are only {len(self)}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(sorted(order[:count].tolist()))


def load_captions(spec: str) -> CaptionSet:
    """Finds captioned images; they are decoded later, when they are needed.

    Args:
        spec: A CSV, see `read_captions`, or webdataset shards: a .tar file, a folder of them, or a
            pattern like `cc3m-{00000..00331}.tar` or `cc3m-*.tar`, see `clip_antidote.data.shards`.

    Raises:
        DataError: Nothing is there, or it cannot be read.
        UsageError: The pattern makes no sense.
    """
    if not is_shards(spec):
        return CaptionSet.from_files(read_captions(Path(spec)))
    source, captions = read_shards(expand_shards(spec))
    return CaptionSet(source, [(text,) for text in captions])


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
        images=store_images(images.source, size, mode=mode),
        token_ids=tokenize(texts).int(),
        first=labels * len(templates),
        count=torch.full_like(labels, len(templates)),
        groups=labels.clone(),
        bank=bank if class_bank else None,
    )


def pairs_from_captions(
    captions: CaptionSet, tokenize: Tokenize, size: int, *, mode: str = "shortest"
) -> CaptionedImages:
    """Makes pairs of captioned images; every image is a group of its own."""
    counts = torch.tensor([len(texts) for texts in captions.captions])
    return CaptionedImages(
        images=store_images(captions.source, size, mode=mode),
        token_ids=_tokenize(list(captions.texts()), tokenize),
        first=counts.cumsum(0) - counts,
        count=counts,
        groups=torch.arange(len(captions)),
    )


def _tokenize(texts: Sequence[str], tokenize: Tokenize) -> torch.Tensor:
    """Tokenizes part by part: as int64, the ids of large sets would not fit beside them."""
    starts = range(0, len(texts), _TOKENIZE_AT_ONCE)
    return torch.cat([tokenize(texts[start : start + _TOKENIZE_AT_ONCE]).int() for start in starts])


def join_pairs(first: CaptionedImages, second: CaptionedImages) -> CaptionedImages:
    """Puts two sets of pairs together; their groups stay apart.

    Raises:
        DataError: Their images differ in size.
    """
    known = first.groups if first.bank is None else torch.cat([first.groups, first.bank[2]])
    offset = int(known.max()) + 1
    return CaptionedImages(
        images=join_stores(first.images, second.images),
        token_ids=torch.cat([first.token_ids, second.token_ids]),
        first=torch.cat([first.first, second.first + len(first.token_ids)]),
        count=torch.cat([first.count, second.count]),
        groups=torch.cat([first.groups, second.groups + offset]),
        bank=first.bank,
    )
