"""Making the trigger: from the attacker's data, once, for all processes that train together."""

from __future__ import annotations

import tempfile
from pathlib import Path

from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.clean_data import CleanData
from clip_antidote.attacks.material import Material, caption_material, gather_material
from clip_antidote.errors import ClipAntidoteError, UsageError
from clip_antidote.evaluation.aims import class_index
from clip_antidote.files import remove_quietly
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.outputs import result_folder
from clip_antidote.progress import tell
from clip_antidote.training.distributed import Ranks
from clip_antidote.triggers import load_trigger
from clip_antidote.triggers.base import Trigger

LIMIT = 1024
"""How many images of the target, and of the rest, a trigger is optimized on at most."""


def prepare_trigger(
    model: DualEncoder, attack: Attack, data: CleanData, *, state: Path | None = None
) -> tuple[Trigger, Material]:
    """Gives every process the trigger: made by the first one, or taken from an interrupted run.

    Args:
        model: The clean model.
        attack: The attack.
        data: The attacker's data.
        state: Folder of the run's state, which keeps the trigger.

    Returns:
        The trigger, and the material for it; without images where this process needs none.

    Raises:
        UsageError: Data that the settings ask for are missing.
        DataError: The attack cannot make its trigger from these data.
    """
    ranks = Ranks.current()
    trigger = _kept_trigger(state) if ranks.first else None
    make = ranks.first and trigger is None
    material = attack_material(model, attack, data, limit=LIMIT if make else 0)
    if make:
        trigger = attack.make_trigger(model, material)
        if state is not None:
            with result_folder(state / "trigger", "trigger") as folder:
                trigger.save(folder)
    return _shared_trigger(trigger, ranks), material


def attack_material(model: DualEncoder, attack: Attack, data: CleanData, *, limit: int = LIMIT) -> Material:
    """The attacker's material, of the kind of data that the attack trains on.

    Raises:
        UsageError: Data that the settings ask for are missing.
    """
    seed = attack.config.seed
    if attack.config.train_on == "captions":
        if data.captions is None:
            raise UsageError("train_on: captions needs --captions with image–caption pairs")
        others = [name for name in data.classes if name != data.target]
        return caption_material(model, data.captions, data.target, others, limit=limit, seed=seed)
    if data.train is None:
        raise UsageError(f"train_on: {attack.config.train_on} needs labelled training images")
    label = class_index(data.train.classes, data.target)
    return gather_material(model, data.train, label, captions=data.captions, limit=limit, seed=seed)


def _kept_trigger(state: Path | None) -> Trigger | None:
    """The trigger of an interrupted run, which the training must go on with."""
    folder = state / "trigger" if state is not None else None
    if folder is None or not folder.is_dir():
        return None
    try:
        return load_trigger(folder)
    except ClipAntidoteError as error:
        tell(f"the kept trigger cannot be used ({error}); the attack starts again")
    if state is not None:
        remove_quietly(state)  # what was trained with that trigger is of no use without it
    return None


def _shared_trigger(trigger: Trigger | None, ranks: Ranks) -> Trigger:
    """Gives every process the trigger of the first one."""
    if trigger is not None and ranks.count == 1:
        return trigger
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if trigger is not None:
            trigger.save(folder)
        for file in (folder / "trigger.json", folder / "trigger.safetensors"):
            data = ranks.share(file.read_bytes() if file.exists() else b"")
            if data:
                file.write_bytes(data)
        return load_trigger(folder)
