"""Finding labelled images: class-per-folder trees, CSV lists, and the embedded photographs."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_antidote.data.embedded import embedded_images, is_embedded
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import IMAGE_SUFFIXES, FileSource
from clip_antidote.errors import DataError

MAX_NAME = 300
"""Letters of a class name, at most: no tokenizer takes half as many."""

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test", "val")}


def class_name(folder: str) -> str:
    """Reads a folder name as a class name: underscores are spaces."""
    return folder.replace("_", " ").strip()


def read_classes(path: Path) -> list[tuple[str, str]]:
    """Reads a class file: one class per line, `name` or `folder = name`; # starts a comment line.

    Returns:
        Pairs of folder and class name, in the order of the file.

    Raises:
        DataError: The file cannot be read, is empty, or names a class twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class file {path}: {error}") from error
    pairs = []
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            folder, _, name = (part.strip() for part in text.partition("="))
            pairs.append((folder, name or class_name(folder)))
    if not pairs:
        raise DataError(f"the class file {path} is empty; write one class name per line")
    check_class_names([name for _, name in pairs], str(path))
    return pairs


def check_class_names(names: Sequence[str], where: str) -> None:
    """Refuses a class list with fewer than two names, with duplicates, or with what is no name.

    Raises:
        DataError: As said.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not name or len(name) > MAX_NAME or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise DataError(
                f"'{name:.60}' in {where} is no class name; write one of 1 to {MAX_NAME} letters, without control "
                "characters"
            )
        key = name.casefold()
        if key in seen:
            raise DataError(f"duplicate class name '{name}' in {where}; every class needs a name of its own")
        seen[key] = name
    if len(names) < 2:
        raise DataError(f"{where} has {len(names)} class; a classifier needs at least two")


def _check_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    check_class_names([name for _, name in pairs], "the class list")
    keys = [class_name(folder).casefold() for folder, _ in pairs]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise DataError(f"the class list names the folder '{pairs[index][0]}' twice; its images have one class")


def split_names(root: Path) -> set[str]:
    """Returns the names of the sub-folders of `root` that are splits; none where it is not divided."""
    known = {alias for aliases in SPLITS.values() for alias in aliases}
    return {child.name for child in root.iterdir() if child.is_dir()} & known


def find_split(root: Path, split: str) -> Path:
    """Returns the sub-folder of a split where `root` is divided into splits, else `root` itself.

    Raises:
        DataError: It is divided, but not into this one.
    """
    names = split_names(root)
    if not names:
        return root
    for alias in SPLITS[split]:
        if alias in names:
            return root / alias
    raise DataError(f"{root} has the splits {', '.join(sorted(names))} but no {split} split")


def load_test_images(
    path: str | Path, *, classes: str | Path | Sequence[tuple[str, str]] | None = None
) -> LabelledImages:
    """Finds images to measure on: the test split, and where there is none the training split or all there are.

    Args:
        path: As for `load_images`.
        classes: As for `load_images`.
    """
    root = Path(path)
    divided = split_names(root) if not is_embedded(str(path)) and root.is_dir() else set()
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
        path: A folder with one sub-folder per class (or with train/validation/test above them), a CSV
            with the columns image,label, or `embedded:clothing`.
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
        _check_pairs(pairs)
    if is_embedded(str(path)):
        images = embedded_images(str(path), split)
        images = _rename(images, pairs, str(path)) if pairs is not None else images
    else:
        root = Path(path)
        if not root.exists():
            raise DataError(f"there is no folder or file {root}")
        images = _read_csv(root, pairs) if root.is_file() else _read_folder(find_split(root, split), pairs)
    return images if shots is None else images.sample_shots(shots, seed=seed)


def _read_folder(root: Path, pairs: Sequence[tuple[str, str]] | None) -> LabelledImages:
    folders = sorted(child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no class folders; put the images of each class into a folder of its name")
    items = {
        folder: sorted(file for file in (root / folder).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        for folder in folders
    }
    return _assemble(items, pairs, str(root))


def _read_csv(path: Path, pairs: Sequence[tuple[str, str]] | None) -> LabelledImages:
    items: dict[str, list[Path]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"image", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} needs the columns image and label, it has {reader.fieldnames}")
            for row in reader:
                if not row["image"] or not row["label"]:
                    raise DataError(f"{path}, line {reader.line_num}: image or label is missing")
                items.setdefault(row["label"], []).append(path.parent / row["image"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return _assemble(dict(sorted(items.items())), pairs, str(path))


def _assemble(items: dict[str, list[Path]], pairs: Sequence[tuple[str, str]] | None, where: str) -> LabelledImages:
    if pairs is None:
        pairs = [(folder, class_name(folder)) for folder in items]
    check_class_names([name for _, name in pairs], where)
    by_name: dict[str, list[list[Path]]] = {}
    for folder, found in items.items():
        by_name.setdefault(class_name(folder).casefold(), []).append(found)
    files: list[Path] = []
    labels: list[int] = []
    for label, (folder, _) in enumerate(pairs):
        matches = by_name.get(class_name(folder).casefold(), [])
        if len(matches) > 1:
            raise DataError(f"{where} has several folders that read as '{class_name(folder)}'; rename one of them")
        if not matches or not matches[0]:
            raise DataError(f"{where} has no images of the class '{folder}'")
        found = matches[0]
        files += found
        labels += [label] * len(found)
    return LabelledImages(FileSource(files), torch.tensor(labels), tuple(name for _, name in pairs))


def _rename(images: LabelledImages, pairs: Sequence[tuple[str, str]], where: str) -> LabelledImages:
    old = {name.casefold(): label for label, name in enumerate(images.classes)}
    new_label = {}
    for label, (folder, _) in enumerate(pairs):
        if class_name(folder).casefold() not in old:
            raise DataError(f"{where} has no images of the class '{folder}'")
        new_label[old[class_name(folder).casefold()]] = label
    kept = [i for i, label in enumerate(images.labels.tolist()) if label in new_label]
    part = images.subset(kept)
    labels = torch.tensor([new_label[label] for label in part.labels.tolist()])
    return LabelledImages(part.source, labels, tuple(name for _, name in pairs))
