"""Lists in JSON files, as other tools write them; one of several is named by `FILE.json#KEY`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clip_antidote.errors import DataError

LARGEST = 64 * 2**20
"""Bytes of such a file, at most."""


def is_number(text: str) -> bool:
    """Whether a text is a number that may count classes: digits, of which `int` makes one without trouble."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def is_json(path: Path) -> bool:
    """Whether a path is that of a JSON file, with or without #KEY."""
    return _parts(path)[0].suffix.lower() == ".json"


def _parts(path: Path) -> tuple[Path, str]:
    if path.exists() or "#" not in path.name:
        return path, ""
    name, _, key = path.name.partition("#")
    return path.with_name(name), key


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: It cannot be read, or is too large.
    """
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise DataError(f"{path} has more than {LARGEST // 2**20} MiB; a list of that size is none")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise DataError(f"cannot read {path} as JSON ({said}); copy it again") from error


def read_json_list(path: Path) -> list[str] | dict[str, list[str]]:
    """Reads a list of texts, the list of the key that the path names, or an object from numbers to pairs of texts.

    Raises:
        DataError: The file holds something else, or several lists and no key says which.
    """
    file, key = _parts(path)
    value = read_json(file)
    if key:
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(list(value)[:20]) if isinstance(value, dict) else "no keys at all"
            raise DataError(f"{file} has no list '{key}'; it has {known}")
        value = value[key]
    elif isinstance(value, dict) and value and all(map(is_number, value)):
        rows = list(value.values())
        if all(_is_texts(row) and len(row) == 2 for row in rows):
            return value
    elif isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    elif isinstance(value, dict) and value:
        first = next(iter(value))
        raise DataError(f"{file} has {len(value)} lists; name one, like {file}#{first}")
    if not _is_texts(value):
        raise DataError(f"{path} holds no list of texts; write a JSON list, or a text file with one per line")
    return list(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
