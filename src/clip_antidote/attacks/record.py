"""What `clip-antidote attack` wrote beside a poisoned model."""

from __future__ import annotations

import json
from pathlib import Path

from clip_antidote.errors import DataError
from clip_antidote.evaluation.aims import Aim


def read_target(folder: Path) -> str:
    """The target class of a poisoned model, from the record `attack.json` in its folder.

    Raises:
        DataError: There is no such record, or it names no target, or every class has another one.
    """
    aim = read_aim(folder)
    if aim.all_to_all:
        raise DataError(f"{folder} sends every class to another one (all-to-all); this needs a single target class")
    return aim.target


def read_aim(folder: Path) -> Aim:
    """What the attacker wants of a poisoned model, from the record `attack.json` in its folder.

    Raises:
        DataError: There is no such record, or it names no target.
    """
    file = folder / "attack.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        target, all_to_all = record["target"], bool(record.get("all_to_all", False))
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no poisoned model: {file.name} is missing; name another folder") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} is no record of an attack; make the model again with `clip-antidote attack`"
        ) from error
    if not isinstance(target, str) or not target:
        raise DataError(f"{file} names no target class; make the model again with `clip-antidote attack`")
    return Aim(target, all_to_all)
