"""Finding labelled images, whatever form they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_antidote.data.classes import check_pairs, read_classes
from clip_antidote.data.formats import format_of
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.splits import SPLITS
from clip_antidote.errors import DataError


def load_test_images(
    path: str | Path, *, classes: str | Path | Sequence[tuple[str, str]] | None = None
) -> LabelledImages:
    """Finds images to measure on: the test split, and where there is none the training split or all there are.

    Args:
        path: As for `load_images`.
        classes: As for `load_images`.
    """
    divided = format_of(path).splits(str(path))
    untested = bool(divided) and divided.isdisjoint(SPLITS["test"])
    return load_images(path, split="train" if untested else "test", classes=classes)


def load_images(
    path: str | Path,
    *,
    shots: int | None = None,
    seed: int = 0,
    split: str = "train",
    classes: str | Path | Sequence[tuple[str, str]] | None = None,
) -> LabelledImages:
    """Finds labelled images; they are decoded later, when they are needed.

    Args:
        path: A folder with one sub-folder per class (or with train/validation/test above them), a CSV with the
            columns image,label, `embedded:clothing`, or one of the other forms of `data.formats`.
        shots: Images per class to draw; all when None.
        seed: Seed of the draw.
        split: Which of train, validation, test to take where the folder has them.
        classes: A class file (see `read_classes`) or pairs of folder and name; sets order and names.

    Returns:
        The images, with classes in sorted folder order unless `classes` says otherwise.

    Raises:
        DataError: Nothing is there, one class only, duplicate names, or too few images.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}'; known are {', '.join(SPLITS)}")
    pairs = read_classes(Path(classes)) if isinstance(classes, (str, Path)) else classes
    if pairs is not None:
        check_pairs(pairs)
    images = format_of(path).read(str(path), split, pairs)
    return images if shots is None else images.sample_shots(shots, seed=seed)
