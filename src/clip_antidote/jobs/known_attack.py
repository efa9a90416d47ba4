"""What a run is measured with: a trigger and what the attacker wants of it, of a poisoned model or by their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_antidote.attacks.record import read_aim
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.aims import Aim
from clip_antidote.triggers import Trigger, load_trigger


@dataclass(frozen=True)
class KnownAttack:
    """What a run is measured with: never told to a defense that is no oracle.

    Attributes:
        name: What the user called it.
        trigger: The trigger.
        aim: What triggered images are to be called; None where nobody says.
    """

    name: str
    trigger: Trigger
    aim: Aim | None


def known_attack(folder: Path | None, trigger: str | None, target: str | None) -> KnownAttack | None:
    """Reads what to measure with: the folder that `attack` wrote, or a trigger and a target.

    Raises:
        UsageError: Both are given, or a target without a trigger, or there is no trigger of that name.
        DataError: The folder holds no record of an attack, or a broken one.
    """
    if folder is None:
        if trigger is None:
            if target is not None:
                raise UsageError("--target says what a trigger leads to; name the trigger with --trigger as well")
            return None
        return KnownAttack(trigger, load_trigger(trigger), Aim.of(target))
    if trigger is not None or target is not None:
        raise UsageError("--attack names trigger and target already; leave out --trigger and --target")
    aim = read_aim(folder)
    return KnownAttack(str(folder), load_trigger(folder / "trigger"), aim)
