"""The table beside a folder of images: `metadata.csv` or `metadata.jsonl`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clip_antidote.errors import DataError

TABLES = ("metadata.csv", "metadata.jsonl")
IMAGE, LABELS = "file_name", ("label", "labels", "class", "category")


def says_labels(table: Path) -> bool:
    """Whether a table has the columns of an image and a label; of others, such as captions, nothing is read."""
    try:
        first: Mapping[str, Any] | None = next(table_rows(table), None)
    except DataError:
        return True  # to be read, and complained of
    return first is not None and IMAGE in first and label_column(first) is not None


def label_column(row: Mapping[str, Any]) -> str | None:
    """The column of the label, None where there is none."""
    return next((name for name in LABELS if name in row), None)


def table_rows(table: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table; `DataError` where it cannot be read."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            if table.suffix == ".csv":
                yield from csv.DictReader(file)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"line {number} of {table} is no JSON object; write one image per line")
                    yield row
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"cannot read {table} ({type(error).__name__}); copy it again") from error


def table_in(folder: Path) -> Path | None:
    """The table of a folder, None where there is none."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)
