"""A poisoned model of the zoo with what its attacker knows, for benchmarks and drawings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_antidote.attacks.record import read_target
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
