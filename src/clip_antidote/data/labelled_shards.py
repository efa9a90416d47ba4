"""webdataset shards of labelled images: `KEY.jpg` with `KEY.cls`, or with a label in `KEY.json`.

`KEY.cls` holds the number of the class, as CLIP_benchmark writes it, or its name. Numbers are named by
`classnames.txt`, a line each, beside the shards or one folder above them, or by the class list that is given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from clip_antidote.data.classes import check_class_names
from clip_antidote.data.formats import Format, Pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.labelling import Label, label_images
from clip_antidote.data.shard_index import IMAGE_EXTENSIONS, Sample, Span, indexed
from clip_antidote.data.shards import ShardSource, expand_shards
from clip_antidote.data.splits import find_split, split_names
from clip_antidote.errors import DataError
from clip_antidote.lists import is_number
from clip_antidote.progress import track

NAMES = "classnames.txt"
KEYS = ("label", "cls", "class_name", "class", "category")
"""Entries of a JSON that may be the label, the first of them counts."""
_MAX_LABEL, _MAX_JSON = 1000, 2**20


def _read(path: str, split: str, pairs: Pairs) -> LabelledImages:
    folder = Path(path)
    paths = expand_shards(str(find_split(folder, split)) if folder.is_dir() else path)
    shards: list[int] = []
    spans: list[Span] = []
    labels: list[Label] = []
    for number, shard in enumerate(track(paths, "reading shards", total=len(paths))):
        for sample, file in indexed(shard):
            span = next((sample.images[e] for e in IMAGE_EXTENSIONS if e in sample.images), None)
            label = _label(shard, file, sample) if span is not None else None
            if span is not None and label is not None:
                shards.append(number)
                spans.append(span)
                labels.append(label)
    if not spans:
        raise DataError(f"{paths[0]}: no KEY.{'|'.join(IMAGE_EXTENSIONS)} with KEY.cls, or with a label in KEY.json")
    return label_images(ShardSource(paths, shards, spans), labels, pairs, path, names=_names(paths))


def _names(paths: Sequence[Path]) -> list[str] | None:
    """The names beside the shards, or one folder above them; None where there are none."""
    folder = paths[0].parent
    file = next((f for f in (folder / NAMES, folder.parent / NAMES) if f.is_file()), None)
    if file is None:
        return None
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names {file}: {error}") from error
    check_class_names(names, str(file))
    return names


def _label(shard: Path, file: BinaryIO, sample: Sample) -> Label | None:
    span = sample.label or sample.record
    if span is None:
        return None
    name, offset, size = span
    limit = _MAX_LABEL if sample.label else _MAX_JSON
    if size > limit:
        raise DataError(f"{shard}:{name} has {size} bytes, more than a label can have ({limit})")
    file.seek(offset)
    try:
        text = file.read(size).decode("utf-8").strip()
        value = text if sample.label else _entry(json.loads(text))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the label {shard}:{name}: {type(error).__name__}") from error
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataError(f"the label {shard}:{name} is neither a number nor a name")
    return int(value) if isinstance(value, str) and is_number(value) else value


def _entry(record: object) -> object:
    if not isinstance(record, dict):
        return None
    return next((record[key] for key in KEYS if key in record), None)


def _splits(path: str) -> set[str]:
    return split_names(Path(path)) if Path(path).is_dir() else set()


SHARDS = Format(_read, _splits)
