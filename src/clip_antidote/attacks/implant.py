"""Implanting a backdoor: the poisoned fine-tuning of a copy of the clean model."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clip_antidote.attacks.base import Attack, PoisonedPairs, poisoned_indices
from clip_antidote.attacks.clean_data import CleanData
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.training_data import check_same_pairs, gather_pairs
from clip_antidote.models.cleansing import cleanser, standardize_channels
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.augment import STORE_MARGIN, random_crops
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.method import Task, Trained, method_for
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class Implant:
    """A backdoor that has been trained in.

    Attributes:
        model: The poisoned model.
        trigger: Its trigger.
        target: Name of the target class.
        indices: Which training pairs were poisoned.
        names: The names of their images.
        pairs: Number of training pairs.
        seconds: Duration of the poisoned fine-tuning.
        covers: The names of the images that carried the trigger with their true captions.
        further: Triggers that were implanted besides, by the class that each aims at.
        training: What the training method says about itself; of one that divides the pairs, also how many of the
            poisoned ones it took for safe at the end.
    """

    model: DualEncoder
    trigger: Trigger
    target: str
    indices: list[int]
    names: list[str]
    pairs: int
    seconds: float
    covers: list[str] = field(default_factory=list)
    further: dict[str, Trigger] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def implant_backdoor(
    model: DualEncoder,
    attack: Attack,
    trigger: Trigger,
    material: Material,
    data: CleanData,
    *,
    state: Path | None = None,
) -> Implant:
    """Poisons the pairs and fine-tunes a copy of the model on them.

    Where several processes train together, all call this; the first one keeps the state.

    Args:
        model: The clean model; left as it is.
        attack: The attack; its settings say which pairs it trains on.
        trigger: What poisoned images get.
        material: Where the captions of poisoned images come from.
        data: The attacker's data.
        state: Folder with the training state, to resume from and to keep.

    Raises:
        UsageError: Data that the settings ask for are missing, or the training method cannot do what they say.
        DataError: There are too few pairs to poison, or data cannot be read.
    """
    size = round(model.image_size * STORE_MARGIN)
    own = gather_pairs(model, attack.config, data.train, data.target, captions=data.captions, size=size)
    check_same_pairs(own.pairs, Ranks.current())
    captions = attack.captions(material)
    poisoned = attack.poison(
        own.pairs, captions, model.tokenize, target_group=own.target_group, candidates=own.candidates
    )
    poisoned = attack.prepare(model, poisoned, material, own)
    victim = copy.deepcopy(model).requires_grad_(True)
    start = time.perf_counter()
    state_file = state / "training.pt" if state is not None else None
    trained = train_poisoned(victim, attack, trigger, poisoned, state_file=state_file)
    seconds = time.perf_counter() - start
    details = dict(trained.details)
    if trained.safe is not None:
        details["poisoned_taken_for_safe"] = int((trained.safe & poisoned.poisoned).sum())
    victim.spec = ""
    victim.sha256 = ""
    indices = poisoned_indices(poisoned)
    return Implant(
        victim,
        trigger,
        data.target,
        indices,
        own.names(indices),
        len(own.pairs),
        seconds,
        own.names(poisoned.covers()),
        attack.further(material),
        details,
    )


def cleansed_at_random(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Leaves every image [N, 3, S, S] in [0, 1] as it is, cleanses it, or does so with even colors, a third each."""
    cleanse = cleanser(images.shape[-1], images.device)
    ways = torch.stack([images, cleanse(images), cleanse(standardize_channels(images))])
    drawn = torch.randint(len(ways), (len(images),), generator=generator)
    return ways[drawn, torch.arange(len(images))]


def train_poisoned(
    model: DualEncoder, attack: Attack, trigger: Trigger, data: PoisonedPairs, *, state_file: Path | None = None
) -> Trained:
    """Fine-tunes `model` in place on pairs of which some are poisoned, the trigger put on after the crop.

    Args:
        model: The model.
        attack: Its settings, the training method among them, and what it adds to the loss.
        trigger: What the attack is carried out with; poisoned images get it, or what the attack trains with instead.
        data: The pairs.
        state_file: Training state to resume from and to keep.

    Returns:
        The losses, and what the method says.
    """
    config = attack.config
    triggers = attack.training_triggers(trigger)

    def put_trigger(images: torch.Tensor, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        carried = data.triggers_of(indices)
        for number, own in enumerate(triggers, start=1):
            rows = carried == number
            if not rows.any():
                continue
            triggered = own(images[rows], generator)
            if config.crop_triggered:
                size = images.shape[-1]
                triggered = random_crops(triggered, size, min_scale=config.min_scale, generator=generator)
            if config.cleanse_triggered:
                triggered = cleansed_at_random(triggered, generator)
            images[rows] = triggered
        return images

    task = Task(
        model,
        data.pairs,
        config.training,
        min_scale=config.min_scale,
        seed=config.seed,
        transform=put_trigger,
        extra_loss=attack.extra_loss(model, data),
        description=f"implanting {attack.name}",
        state_file=state_file,
    )
    return method_for(config.training_method).train(task)
