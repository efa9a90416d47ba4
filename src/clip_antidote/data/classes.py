"""Class lists: files that hold them, and what is a class name."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from clip_antidote.errors import DataError
from clip_antidote.lists import is_json, read_json_list

MAX_NAME = 300
"""Letters of a class name, at most: no tokenizer takes half as many."""


def class_name(folder: str) -> str:
    """Reads a folder name as a class name: underscores are spaces."""
    return folder.replace("_", " ").strip()


def read_classes(path: Path) -> list[tuple[str, str]]:
    """Reads a class file.

    - Text has one class per line, `name` or `folder = name`; # starts a comment line. CLIP_benchmark's
      `classnames.txt` is such a file.
    - JSON (`*.json`) is a list of names; or an object of such lists, of which `FILE.json#KEY` names one, as
      CLIP_benchmark's `en_classnames.json#imagenet1k`; or an object from numbers to pairs of folder and name, as
      Keras' `imagenet_class_index.json`.

    Returns:
        Pairs of folder and class name, in the order of the file.

    Raises:
        DataError: The file cannot be read, is empty, or names a class twice.
    """
    pairs = _json_pairs(path) if is_json(path) else _text_pairs(path)
    if not pairs:
        raise DataError(f"the class file {path} is empty; write one class name per line")
    check_class_names([name for _, name in pairs], str(path))
    return pairs


def _text_pairs(path: Path) -> list[tuple[str, str]]:
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
    return pairs


def _json_pairs(path: Path) -> list[tuple[str, str]]:
    value = read_json_list(path)
    if isinstance(value, dict):  # from numbers to folder and name
        rows = [value[number] for number in sorted(value, key=int)]
        return [(folder, class_name(name)) for folder, name in rows]
    return [(name, class_name(name)) for name in value]


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


def check_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuses a class list with wrong names, or with one folder twice.

    Raises:
        DataError: As said.
    """
    check_class_names([name for _, name in pairs], "the class list")
    keys = [class_name(folder).casefold() for folder, _ in pairs]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise DataError(f"the class list names the folder '{pairs[index][0]}' twice; its images have one class")
