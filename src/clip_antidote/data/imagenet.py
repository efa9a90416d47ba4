"""ImageNet and its relatives as folders: named by WordNet ids, or by the number of the class.

ImageNet, -Sketch, -A and -R have folders like `n01440764`, ImageNet-V2 `0` to `999`. The class list says which class
that is. -A and -R have 200 of the 1000 classes: answers are then compared among these alone, as those papers do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from clip_antidote.data.formats import Pairs
from clip_antidote.errors import DataError
from clip_antidote.lists import is_number
from clip_antidote.progress import mention

WNID = re.compile(r"n\d{8}")


def fit_layout(folders: Sequence[str], pairs: Pairs, where: str) -> Pairs:
    """Fits a class list to folders that are named as ImageNet's are; other lists and folders stay as they are.

    Args:
        folders: Names of the class folders.
        pairs: The class list, pairs of folder and name.
        where: The dataset, for messages.

    Returns:
        The classes of the list that have a folder, in the order of the list, with the names of their folders.

    Raises:
        DataError: The list does not say which class a folder is.
    """
    if pairs is None or not folders:
        return pairs
    if all(WNID.fullmatch(folder) for folder in folders):
        return _by_wnid(set(folders), pairs, where)
    if all(map(is_number, folders)) and not any(is_number(folder) for folder, _ in pairs):
        return _by_number(folders, pairs, where)
    return pairs


def _by_wnid(folders: set[str], pairs: Sequence[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    kept = [(folder, name) for folder, name in pairs if folder in folders]
    if not kept:
        raise DataError(
            f"the folders of {where} are named by WordNet ids, and the class list has none of them; write lines like "
            f"'{min(folders)} = name', see docs/data.md"
        )
    _say_subset(len(kept), len(pairs), where)
    return kept


def _by_number(folders: Sequence[str], pairs: Sequence[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    by_number = {int(folder): folder for folder in folders}
    if len(by_number) < len(folders):
        raise DataError(f"{where} has two folders with the same number; remove one of them")
    if max(by_number) >= len(pairs):
        raise DataError(
            f"{where} has a folder {max(by_number)}, but the class list has {len(pairs)} classes, counted from 0; "
            "give the list that its numbers belong to"
        )
    kept = [(by_number[number], pairs[number][1]) for number in sorted(by_number)]
    _say_subset(len(kept), len(pairs), where)
    return kept


def _say_subset(kept: int, listed: int, where: str) -> None:
    if kept < listed:
        mention(f"{where} has {kept} of the {listed} classes of the list; these are told apart")
