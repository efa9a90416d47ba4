"""Parquet files that hold images, as datasets on the Hugging Face Hub have them.

They are read by pyarrow alone, an optional package: no code of the dataset runs, nothing is fetched and kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from clip_antidote.data.formats import Format, Pairs, split_files
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.labelling import Label, label_images
from clip_antidote.data.sources import decode_image
from clip_antidote.data.splits import SPLITS
from clip_antidote.errors import DataError, UnsupportedError

LABELS = ("label", "labels", "class", "fine_label", "category")
KEPT = 4
"""Groups of rows that stay in memory."""

Place = tuple[int, int, int]
"""File, group of rows, row in it."""


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError(
            "parquet files need pyarrow; install it with: pip install 'clip-antidote[parquet]'"
        ) from error
    return pyarrow.parquet


class ParquetSource:
    """Images in parquet files, read a group of rows at a time.

    Args:
        files: The files.
        column: Name of the column with the images.
        places: For every image, where it is.
    """

    def __init__(self, files: Sequence[Path], column: str, places: Sequence[Place]) -> None:
        self.files, self.column, self.places = list(files), column, list(places)
        self._lock = Lock()  # threads decode; one of them reads
        self._group = lru_cache(maxsize=KEPT)(self._read_group)

    def __len__(self) -> int:
        return len(self.places)

    def _read_group(self, file: int, group: int) -> Any:
        return _opened(self.files[file]).read_row_group(group, columns=[self.column]).column(0)

    def read(self, index: int) -> Image.Image:
        file, group, row = self.places[index]
        try:
            with self._lock:
                value = self._group(file, group)[row].as_py()
        except DataError:
            raise
        except Exception as error:  # a damaged page can fail in any way
            raise DataError(f"cannot read {self.name(index)} ({type(error).__name__}); copy it again") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DataError(f"{self.name(index)} holds no image, but at most a path to one; take files with images")
        return decode_image(data, self.name(index))

    def name(self, index: int) -> str:
        file, group, row = self.places[index]
        return f"{self.files[file]}:{group}:{row}"


def _opened(file: Path) -> Any:
    try:
        return _pyarrow().ParquetFile(file)
    except UnsupportedError:
        raise
    except Exception as error:
        raise DataError(f"cannot read {file} as parquet ({type(error).__name__}); copy it again") from error


def _split_of(file: Path) -> str | None:
    """The split that a file belongs to by its name (train-00000-of-00001) or its folder, by its own name."""
    known = {alias for aliases in SPLITS.values() for alias in aliases}
    return next((part for part in (file.name.split("-")[0].split(".")[0], file.parent.name) if part in known), None)


def _files(path: str) -> list[Path]:
    return [Path(path)] if Path(path).is_file() else list(split_files(Path(path), "*.parquet"))


def _splits(path: str) -> set[str]:
    return {name for file in _files(path) if (name := _split_of(file)) is not None}


def _read(path: str, split: str, pairs: Pairs) -> LabelledImages:
    files, there = _files(path), _splits(path)
    if there:
        chosen = next((alias for alias in SPLITS[split] if alias in there), None)
        if chosen is None:
            raise DataError(f"{path} has the splits {', '.join(sorted(there))} but no {split} split")
        files = [file for file in files if _split_of(file) == chosen]
    image, label, names = _columns(files[0])
    places: list[Place] = []
    labels: list[Label] = []
    for number, file in enumerate(files):
        for group, row, value in _labels(file, label):
            places.append((number, group, row))
            labels.append(value)
    return label_images(ParquetSource(files, image, places), labels, pairs, path, names=names)


def _columns(file: Path) -> tuple[str, str, list[str] | None]:
    """The columns of image and label, and the names of the classes where the file has them."""
    schema = _opened(file).schema_arrow
    features = _features(schema.metadata or {})
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    images = [name for name in schema.names if kinds.get(name) == "Image" or name in ("image", "img")]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    labels += [name for name in LABELS if name in schema.names]
    if not images or not labels:
        raise DataError(f"{file} needs a column with images and one with labels, it has {', '.join(schema.names)}")
    names = features.get(labels[0], {}).get("names")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return images[0], labels[0], names if known else None


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _labels(file: Path, column: str) -> Iterator[tuple[int, int, Label]]:
    opened = _opened(file)
    for group in range(opened.num_row_groups):
        try:
            values = opened.read_row_group(group, columns=[column]).column(0).to_pylist()
        except Exception as error:
            raise DataError(f"cannot read the column {column} of {file} ({type(error).__name__})") from error
        for row, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, (int, str)) or value == -1:
                raise DataError(f"row {row} of group {group} of {file} has no label; take a split with labels")
            yield group, row, value


PARQUET = Format(_read, _splits)
