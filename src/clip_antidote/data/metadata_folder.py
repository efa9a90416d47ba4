"""A folder of images with a `metadata.csv` or `metadata.jsonl`, as Hugging Face's `imagefolder` has them.

Each row has `file_name`, relative to the metadata, and a label. Splits are sub-folders with metadata of their own, or
sub-folders that the names of one table begin with.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from clip_antidote.data.formats import Format, Pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.labelling import Label, inside, label_images
from clip_antidote.data.metadata_table import IMAGE, TABLES, label_column, table_in, table_rows
from clip_antidote.data.sources import FileSource
from clip_antidote.data.splits import find_split, split_names
from clip_antidote.errors import DataError
from clip_antidote.lists import is_number


def _read(path: str, split: str, pairs: Pairs) -> LabelledImages:
    root = Path(path)
    folder = find_split(root, split)
    begins: tuple[str, ...] = ()
    table = table_in(folder)
    if table is None:  # one table for all splits
        table, begins = table_in(root), folder.relative_to(root).parts
    if table is None:
        raise DataError(f"{folder} has no {' or '.join(TABLES)}; each split needs one")
    files: list[Path] = []
    labels: list[Label] = []
    for number, row in enumerate(table_rows(table), start=1):
        column, name = label_column(row), row.get(IMAGE)
        label = _label(row[column]) if column is not None else None
        if not isinstance(name, str) or label is None:
            raise DataError(f"row {number} of {table} lacks {IMAGE} or a label; it should have both")
        image = inside(table.parent, name, f"row {number} of {table}")
        if PurePosixPath(image.relative_to(table.parent).as_posix()).parts[: len(begins)] == begins:
            files.append(image)
            labels.append(label)
    if all(isinstance(label, str) and is_number(label) for label in labels):  # a CSV has no numbers
        labels = [int(label) for label in labels]
    return label_images(FileSource(files), labels, pairs, str(table))


def _label(value: Any) -> Label | None:
    if isinstance(value, str):
        return value if value.strip() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


METADATA = Format(_read, lambda path: split_names(Path(path)))
