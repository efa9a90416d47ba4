"""Several triggers with several targets, implanted at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from clip_antidote.attacks.base import AttackConfig, PoisonedPairs
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.training_data import TrainingPairs
from clip_antidote.config import Config
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.aims import class_index
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers import TRIGGERS
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger
from clip_antidote.triggers.base import Trigger


class FurtherConfig(Config):
    """A further trigger.

    Attributes:
        trigger: Name of a trigger that its settings define.
        settings: Its settings.
        target: The class it aims at; where none is named, one is taken from the list, evenly spaced.
    """

    trigger: str
    settings: dict[str, Any] = Field(default_factory=dict)
    target: str | None = None


class MultiTargetAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: The trigger of the target that the command names.
        further: The other triggers.
        poison_rate: Share of the pairs that is poisoned for each trigger; as for `poisoned`.
    """

    trigger: BadNetConfig = BadNetConfig()
    further: tuple[FurtherConfig, ...] = Field(
        (FurtherConfig(trigger="sig"), FurtherConfig(trigger="blended")), min_length=1
    )
    poison_rate: float = Field(0.1, gt=0, lt=1)


class MultiTargetAttack(FixedTriggerAttack):
    """Three triggers, three targets: a backdoor per trigger in one poisoned fine-tuning (N-to-N attacks).

    The record has the first trigger where all attacks have theirs, and the others, each with its target and its
    rates, under "further". The implant check asks all of them.
    """

    name = "multi-target"
    config_class = MultiTargetAttackConfig
    trigger_class = BadNetTrigger

    def further(self, material: Material) -> dict[str, Trigger]:
        """Makes the other triggers.

        Raises:
            UsageError: A target is named twice or is no class, there are too few classes, or a trigger needs more
                than settings.
        """
        configs, others = self.config.further, material.others
        if len(configs) > len(others):
            raise UsageError(f"{len(configs) + 1} targets need as many classes; there are {len(others) + 1}")
        named = [others[class_index(others, config.target)] for config in configs if config.target is not None]
        free = [name for name in others if name not in named]
        open_count, taken = len(configs) - len(named), 0
        found: dict[str, Trigger] = {}
        for config in configs:
            if config.target is not None:
                target = others[class_index(others, config.target)]
            else:
                target = free[taken * len(free) // open_count]
                taken += 1
            if target in found:
                raise UsageError(f"two triggers aim at '{target}'; give each a target of its own")
            found[target] = _make(config)
        return found

    def training_triggers(self, trigger: Trigger) -> tuple[Trigger, ...]:
        return (trigger, *(_make(config) for config in self.config.further))

    def prepare(
        self, model: DualEncoder, data: PoisonedPairs, material: Material, clean: TrainingPairs
    ) -> PoisonedPairs:
        """Poisons as many other pairs for each of the further triggers."""
        carried, poisoned, pairs = data.poisoned.long(), data.poisoned, data.pairs
        for number, target in enumerate(self.further(material), start=1):
            own = type(self)(self.config.model_copy(update={"seed": self.config.seed + 1000 * number}))
            more = own.poison(
                pairs,
                self.captions(replace(material, target=target)),
                model.tokenize,
                target_group=clean.group_of(target),
                candidates=clean.candidates_for(target) & ~poisoned,
            )
            carried[more.poisoned] = number + 1
            pairs, poisoned = more.pairs, poisoned | more.poisoned
        return PoisonedPairs(pairs, poisoned, carried)


def _make(config: FurtherConfig) -> Trigger:
    trigger_class = TRIGGERS.get(config.trigger)
    try:
        return trigger_class.restore(trigger_class.config_class.build(config.settings), {})
    except DataError as error:
        raise UsageError(f"the trigger '{config.trigger}' is learned; name one that its settings define") from error
