"""The forms in which labelled images come; which one a path has is seen from its name and its folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_antidote.data.images import LabelledImages
from clip_antidote.data.metadata_table import TABLES, says_labels
from clip_antidote.data.splits import split_names
from clip_antidote.errors import DataError
from clip_antidote.registry import Registry

PREFIX = "embedded:"
"""How a path begins that names embedded photographs."""

Pairs = Sequence[tuple[str, str]] | None
"""A class list, pairs of folder and name; None where none was given."""


@dataclass(frozen=True)
class Format:
    """One form of labelled images.

    Attributes:
        read: Finds the images of a path and a split, with the classes of a list where one is given; `DataError` where
            there is no such split or the data are broken.
        splits: The splits of a path, by their own names; empty where it is not divided.
    """

    read: Callable[[str, str, Pairs], LabelledImages]
    splits: Callable[[str], set[str]] = lambda path: set()


_ROOM = "clip_antidote.data"

FORMATS: Registry[Format] = Registry(
    "form of data",
    {
        "embedded": (f"{_ROOM}.embedded:EMBEDDED", "the photographs of this package, embedded:clothing"),
        "folders": (f"{_ROOM}.class_folders:FOLDERS", "a folder per class, named, or numbered as ImageNet's are"),
        "csv": (f"{_ROOM}.class_folders:CSV", "a CSV with the columns image,label"),
        "shards": (f"{_ROOM}.labelled_shards:SHARDS", "webdataset shards with a cls or json beside each image"),
        "coop": (f"{_ROOM}.coop_split:COOP", "CoOp's split_zhou_NAME.json beside its images"),
        "metadata": (f"{_ROOM}.metadata_folder:METADATA", "images with a metadata.csv or metadata.jsonl"),
        "parquet": (
            f"{_ROOM}.parquet:PARQUET",
            "parquet files that hold images, as on the Hugging Face Hub",
        ),
    },
)
"""Forms by name; each is imported when a path has it."""


def is_embedded(path: str) -> bool:
    """Whether a path names embedded photographs."""
    return path.startswith(PREFIX)


def format_of(path: str | Path) -> Format:
    """Returns how to read a path.

    Raises:
        DataError: There is nothing.
    """
    return FORMATS.get(form_of(str(path)))


def form_of(path: str) -> str:
    """Says which form the data at a path have, see `FORMATS`.

    Raises:
        DataError: There is nothing.
    """
    if is_embedded(path):
        return "embedded"
    if re.search(r"\.tar$", path):
        return "shards"
    root = Path(path)
    if not root.exists():
        raise DataError(f"there is no folder or file {root}")
    if root.is_dir():
        return next((form for form, there in _MARKS.items() if there(root)), "folders")
    return {".json": "coop", ".parquet": "parquet"}.get(root.suffix.lower(), "csv")


def split_files(root: Path, pattern: str) -> Iterator[Path]:
    """The files of a name pattern in a folder, and in those of its sub-folders that are splits or are called data."""
    for folder in (root, root / "data", *(root / name for name in sorted(split_names(root)))):
        if folder.is_dir():
            yield from sorted(folder.glob(pattern))


def _has_metadata(root: Path) -> bool:
    return any(says_labels(file) for name in TABLES for file in split_files(root, name))


_MARKS: dict[str, Callable[[Path], bool]] = {
    "coop": lambda root: any(root.glob("split_zhou_*.json")),
    "shards": lambda root: any(split_files(root, "*.tar")),
    "parquet": lambda root: any(split_files(root, "*.parquet")),
    "metadata": _has_metadata,
}
"""What in a folder shows its form."""
