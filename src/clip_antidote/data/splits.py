"""Folders that are divided into splits, by the names of their sub-folders."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.errors import DataError

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test", "val")}


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
