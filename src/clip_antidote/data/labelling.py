"""From a label beside every image to labelled images; for formats that have no class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch

from clip_antidote.data.classes import check_class_names, class_name
from clip_antidote.data.formats import Pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import ImageSource
from clip_antidote.errors import DataError

Label = str | int
"""A class by its name, or by its number from 0."""


def label_images(
    source: ImageSource, labels: Sequence[Label], pairs: Pairs, where: str, *, names: Sequence[str] | None = None
) -> LabelledImages:
    """Gives images their classes.

    Args:
        source: N images.
        labels: N labels, all names or all numbers.
        pairs: The class list, where one was given: it chooses, orders and names the classes.
        where: The dataset, for messages.
        names: The names of the numbers, where the dataset has them.

    Raises:
        DataError: Numbers have no names, a class of the list has no image, or the class names are none.
    """
    if not labels:
        raise DataError(f"{where} has no images with a label")
    numbered = [isinstance(label, int) for label in labels]
    if any(numbered) and not all(numbered):
        raise DataError(f"some labels of {where} are numbers and some are names; write all of them alike")
    if all(numbered) and names is None:
        if pairs is None:
            raise DataError(f"{where} numbers its classes; name them by --classes FILE, a line each in their order")
        names, pairs = [name for _, name in pairs], None
    keys = _named(labels, names, where) if all(numbered) else [str(label) for label in labels]
    listed = pairs is not None  # every class of a list that was given must be there
    if pairs is None:  # a class that the dataset names is an answer, whether this split shows it or not
        pairs = [(name, class_name(name)) for name in (names if all(numbered) and names else sorted(set(keys)))]
    check_class_names([name for _, name in pairs], where)
    index = {class_name(folder).casefold(): label for label, (folder, _) in enumerate(pairs)}
    found = torch.tensor([index.get(class_name(key).casefold(), -1) for key in keys])
    kept = (found >= 0).nonzero().flatten()
    counts = found[kept].bincount(minlength=len(pairs))
    if listed and int(counts.min()) == 0:
        raise DataError(f"{where} has no images of the class '{pairs[int(counts.argmin())][0]}'")
    images = LabelledImages(source, found, tuple(name for _, name in pairs))
    return images if len(kept) == len(found) else images.subset(kept)


def _named(labels: Sequence[Label], names: Sequence[str] | None, where: str) -> list[str]:
    """The names of numbered labels."""
    known = list(names or ())
    wrong = next((label for label in labels if not 0 <= int(label) < len(known)), None)
    if wrong is not None:
        raise DataError(
            f"{where} has the label {wrong}, but there are names for {len(known)} classes, counted from 0"
        )
    return [known[int(label)] for label in labels]


def inside(root: Path, name: str, where: str) -> Path:
    """The place of a file that a dataset names, which must lie in the dataset's folder.

    Raises:
        DataError: The name is empty, absolute or leads out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    outside = not parts or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if outside or "\0" in name:
        raise DataError(f"{where} names the image '{name:.100}', which lies outside of its folder; remove the line")
    return root.joinpath(*parts)
