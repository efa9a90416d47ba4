"""A poisoned model of the zoo with what its attacker knows, for benchmarks and drawings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from clip_antidote.errors import DataError
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.triggers import Trigger, load_trigger


@dataclass(frozen=True)
class PoisonedModel:
    """What a folder of `clip-antidote attack` or `benchmark prepare` holds.

    Attributes:
        name: Name of the folder.
        model: The poisoned model.
        trigger: Its true trigger.
        target: Name of its target class.
    """

    name: str
    model: DualEncoder
    trigger: Trigger
    target: str

    @classmethod
    def read(cls, folder: Path, *, device: str = "cpu") -> PoisonedModel:
        """Loads model, trigger and target.

        Raises:
            DataError: The folder holds no record of an attack, or a broken one, or no trigger.
            ModelError: Its model cannot be read.
        """
        target = read_target(folder)
        model = load_model(f"local-dir:{folder}", device=device)
        return cls(folder.name, model, load_trigger(folder / "trigger"), target)


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
