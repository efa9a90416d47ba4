"""Labelled images as folders named by their class, and as a CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_antidote.data.classes import check_class_names, class_name
from clip_antidote.data.formats import Format, Pairs
from clip_antidote.data.imagenet import fit_layout
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import IMAGE_SUFFIXES, FileSource
from clip_antidote.data.splits import find_split, split_names
from clip_antidote.errors import DataError


def _folders_of(path: str, split: str, pairs: Pairs) -> LabelledImages:
    return _read_folder(find_split(Path(path), split), pairs)


def _csv_of(path: str, split: str, pairs: Pairs) -> LabelledImages:
    return _read_csv(Path(path), pairs)


FOLDERS = Format(_folders_of, lambda path: split_names(Path(path)))
CSV = Format(_csv_of)


def _read_folder(root: Path, pairs: Sequence[tuple[str, str]] | None) -> LabelledImages:
    folders = sorted(child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no class folders; put the images of each class into a folder of its name")
    items = {
        folder: sorted(file for file in (root / folder).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        for folder in folders
    }
    return _assemble(items, fit_layout(folders, pairs, str(root)), str(root))


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
