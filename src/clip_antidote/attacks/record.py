"""What `clip-antidote attack` wrote beside a poisoned model."""

from __future__ import annotations

import json
from pathlib import Path

from clip_antidote.errors import DataError


def read_target(folder: Path) -> str:
    """The target class of a poisoned model, from the record `attack.json` in its folder.

    Raises:
        DataError: There is no such record, or it names no target.
    """
    file = folder / "attack.json"
    try:
        target = json.loads(file.read_text(encoding="utf-8"))["target"]
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no poisoned model: {file.name} is missing; name another folder") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{file} is no record of an attack; make the model again with `clip-antidote attack`"
        ) from error
    if not isinstance(target, str) or not target:
        raise DataError(f"{file} names no target class; make the model again with `clip-antidote attack`")
    return target
