"""CoOp's `split_zhou_NAME.json`: lists of [path, label, class name] for train, val and test.

Format of Zhou et al. 2022 (CoOp, arXiv 2109.01134), whose splits most work on prompts uses.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clip_antidote.data.formats import Format, Pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.labelling import inside, label_images
from clip_antidote.data.sources import FileSource
from clip_antidote.data.splits import SPLITS
from clip_antidote.errors import DataError
from clip_antidote.lists import read_json

Row = tuple[str, int, str]
"""Path below the folder of the images, number and name of the class."""


def split_file(path: str) -> Path:
    """The file itself, or the one in a folder.

    Raises:
        DataError: The folder has several.
    """
    if Path(path).is_file():
        return Path(path)
    found = sorted(Path(path).glob("split_zhou_*.json"))
    if len(found) != 1:
        raise DataError(f"{path} has {len(found)} files split_zhou_*.json; name one of them")
    return found[0]


def _lists(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict) or not value.keys() & {"train", "val", "test"}:
        raise DataError(f"{file} is none of CoOp's splits: it should have the lists train, val and test")
    return {key: value[key] for key in ("train", "val", "test") if isinstance(value.get(key), list) and value[key]}


def _read(path: str, split: str, pairs: Pairs) -> LabelledImages:
    file = split_file(path)
    lists = _lists(file)
    name = next((alias for alias in SPLITS[split] if alias in lists), None)
    if name is None:
        raise DataError(f"{file} has the splits {', '.join(sorted(lists))} but no {split} split")
    by_split = {key: [_row(row, file) for row in rows] for key, rows in lists.items()}
    names: dict[int, str] = {}
    for _, label, class_name in (row for rows in by_split.values() for row in rows):
        if names.setdefault(label, class_name) != class_name:
            raise DataError(f"{file} calls the class {label} both '{names[label]}' and '{class_name}'; mend it")
    rows = by_split[name]
    root = _images(file, rows[0][0])
    source = FileSource([inside(root, image, str(file)) for image, _, _ in rows])
    places = {label: place for place, label in enumerate(sorted(names))}
    labels = [places[label] for _, label, _ in rows]
    return label_images(source, labels, pairs, str(file), names=[names[label] for label in sorted(names)])


def _row(row: Any, file: Path) -> Row:
    match row:
        case [str(image), int(label), str(name)] if not isinstance(label, bool):
            return image, label, name
    raise DataError(f"{file} has an entry that is not [path, number, class name]; copy the file again")


def _images(file: Path, first: str) -> Path:
    """The folder that the paths start from: that of the file, or the one sub-folder that has the first image."""
    folders = [file.parent, *sorted(child for child in file.parent.iterdir() if child.is_dir())]
    for folder in folders:
        if os.path.isfile(inside(folder, first, str(file))):
            return folder
    raise DataError(
        f"the image {first} of {file} is neither in its folder nor in one of the folders there; put the file beside "
        "the images"
    )


COOP = Format(_read, lambda path: set(_lists(split_file(path))))
