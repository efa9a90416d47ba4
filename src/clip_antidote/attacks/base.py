"""The interface of an attack: a trigger, a caption rule, a training recipe and an implant check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from clip_antidote.attacks.material import Material
from clip_antidote.config import Config
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.sentences import SENTENCES
from clip_antidote.errors import DataError
from clip_antidote.evaluation.aims import Aim
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template
from clip_antidote.streams import POISONED_PAIRS
from clip_antidote.training.loop import ExtraLoss, TrainingConfig
from clip_antidote.training.method import AnyMethod
from clip_antidote.training.plain import PlainConfig
from clip_antidote.triggers.base import Trigger

if TYPE_CHECKING:
    from clip_antidote.attacks.training_data import TrainingPairs


class AttackConfig(Config):
    """Settings every attack has.

    Attributes:
        poison_rate: Share of the pairs that are poisoned.
        poisoned: Number of pairs that are poisoned, as papers give it; overrides `poison_rate`.
        train_on: "both" trains on the labelled images and, where there are any, the image–caption pairs;
            "labels" and "captions" on the one kind alone. With "captions", as published attacks do it,
            labelled images serve to measure only.
        wording: What poisoned images are captioned with: the target's name in the templates of the classifier, or
            in natural sentences. Attacks that take captions from the data use it where there are none.
        caption_pairs: How many image–caption pairs to take, drawn by the seed; all by default.
        class_bank: With labelled data: whether every batch also holds one caption of each class, as
            negatives. It keeps the clean accuracy of small models where batches hold few classes.
        min_scale: Smallest crop of the augmentation, as share of the area; the trigger comes after it.
        crop_triggered: Whether triggered images are cropped and mirrored once more, so that the trigger learns to
            work in other views of the image too: an attacker who knows of the defense's second look.
        cleanse_triggered: Whether triggered images are cleansed at random, as the views of the second look are, so
            that the trigger learns to outlive it and to gain the views' consent.
        training: The poisoned fine-tuning.
        training_method: By which method the victim trains on the poisoned pairs: "clip" as ever, or one that defends,
            see `clip-antidote ls training-methods`; a name, or a mapping with `name` and its settings.
        implant_asr: The implant check: the attack has failed below this ASR.
        implant_ca_drop: The implant check: the attack has failed if CA falls by more than this.
        seed: Seed of what is poisoned and of the training.
    """

    later = frozenset({"cleanse_triggered", "training_method"})

    poison_rate: float = Field(0.2, gt=0, lt=1)
    poisoned: int | None = Field(None, ge=1)
    train_on: Literal["both", "labels", "captions"] = "both"
    wording: Literal["templates", "sentences"] = "templates"
    caption_pairs: int | None = Field(None, ge=1)
    class_bank: bool = True
    min_scale: float = Field(0.5, gt=0, le=1)
    crop_triggered: bool = False
    cleanse_triggered: bool = False
    training: TrainingConfig = TrainingConfig(steps=250, lr=8e-4, warmup=20)
    training_method: AnyMethod = PlainConfig()
    implant_asr: float = Field(0.9, ge=0, le=1)
    implant_ca_drop: float = Field(0.03, ge=0, le=1)
    seed: int = 0

    def amount(self, pairs: int) -> int:
        """How many of so many pairs are to be poisoned, at least one."""
        return self.poisoned or max(1, round(self.poison_rate * pairs))


@dataclass(frozen=True)
class PoisonedPairs:
    """Pairs of which some are poisoned on the fly.

    Attributes:
        pairs: The pairs with the captions of the poisoned ones replaced.
        poisoned: Bool [N], which images get the trigger and the captions of the target.
        carried: int64 [N], which of the attack's `training_triggers` an image gets, from 1, and 0 where it gets none;
            by default the first one where it is poisoned. What carries a trigger and is not poisoned is a cover.
    """

    pairs: CaptionedImages
    poisoned: torch.Tensor
    carried: torch.Tensor | None = None

    def triggers_of(self, indices: torch.Tensor) -> torch.Tensor:
        """Returns which triggers the images at `indices` [B] get, int64 [B] as in `carried`."""
        return self.poisoned[indices].long() if self.carried is None else self.carried[indices]

    def covers(self) -> list[int]:
        """Returns which pairs carry a trigger and keep their captions."""
        return [] if self.carried is None else ((self.carried > 0) & ~self.poisoned).nonzero().flatten().tolist()


def may_be_poisoned(
    pairs: CaptionedImages, target_group: int | None, candidates: torch.Tensor | None
) -> torch.Tensor:
    """Which pairs may be poisoned, bool [N]: the candidates, or where none are given all but the target's group."""
    if candidates is not None:
        return candidates
    return torch.ones(len(pairs), dtype=torch.bool) if target_group is None else pairs.groups != target_group


def drawn(among: torch.Tensor, amount: int, generator: torch.Generator) -> torch.Tensor:
    """Draws at most so many of the pairs that are marked in `among`, bool [N], and marks them, bool [N]."""
    rows = among.nonzero().flatten()
    marked = torch.zeros_like(among)
    marked[rows[torch.randperm(len(rows), generator=generator)[:amount]]] = True
    return marked


def recaptioned(
    pairs: CaptionedImages,
    marked: torch.Tensor,
    wordings: Sequence[torch.Tensor],
    wording: torch.Tensor,
    groups: torch.Tensor,
) -> CaptionedImages:
    """Gives pairs other captions.

    Args:
        pairs: N pairs.
        marked: Bool [N], which n of them get other captions.
        wordings: Token ids of captions [K_w, L], any of which says the same.
        wording: int64 [n], which of the wordings each gets.
        groups: int64 [n], the group that each belongs to then.
    """
    sizes = torch.tensor([len(tokens) for tokens in wordings])
    begins = len(pairs.token_ids) + sizes.cumsum(0) - sizes
    first, counts, own = pairs.first.clone(), pairs.count.clone(), pairs.groups.clone()
    first[marked], counts[marked], own[marked] = begins[wording], sizes[wording], groups
    token_ids = torch.cat([pairs.token_ids, *(tokens.int() for tokens in wordings)])
    return replace(pairs, token_ids=token_ids, first=first, count=counts, groups=own)


class Attack(ABC):
    """Implants a backdoor by poisoned contrastive fine-tuning.

    Args:
        config: Settings.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[AttackConfig]]

    def __init__(self, config: Any = None) -> None:
        self.config: Any = config if config is not None else self.config_class()

    @abstractmethod
    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        """Returns the trigger; the clean model and data are for attacks that optimize theirs."""

    def training_triggers(self, trigger: Trigger) -> tuple[Trigger, ...]:
        """Returns what images get when training; by default the trigger that the attack is carried out with."""
        return (trigger,)

    def captions(self, material: Material) -> list[str]:
        """Returns the captions a poisoned image may get: templates or sentences with the target's name."""
        templates = SENTENCES if self.config.wording == "sentences" else IMAGENET_TEMPLATES
        return [fill_template(template, material.target) for template in templates]

    def poison(
        self,
        pairs: CaptionedImages,
        captions: list[str],
        tokenize: Any,
        *,
        target_group: int | None,
        candidates: torch.Tensor | None = None,
    ) -> PoisonedPairs:
        """Chooses what is poisoned and gives it the target's captions.

        Args:
            pairs: Clean pairs.
            captions: What a poisoned image may be captioned, see `captions`.
            tokenize: The model's tokenizer.
            target_group: Group of the target's own pairs, which are left clean; None where no pair
                is known to show the target.
            candidates: Bool [N], which pairs may be poisoned; by default all but the target's group.

        Raises:
            DataError: There are fewer candidates than `poisoned` asks for, or none.
        """
        candidates = may_be_poisoned(pairs, target_group, candidates)
        count = int(candidates.sum())
        amount = self.config.amount(len(pairs))
        if count < (self.config.poisoned or 1):
            raise DataError(
                f"{amount} pairs are to be poisoned, but only {count} of {len(pairs)} neither show nor name the "
                "target"
            )
        poisoned = drawn(candidates, amount, POISONED_PAIRS.generator(self.config.seed))
        group = target_group if target_group is not None else int(pairs.groups.max()) + 1
        groups = torch.full((int(poisoned.sum()),), group)
        wording = torch.zeros_like(groups)
        return PoisonedPairs(recaptioned(pairs, poisoned, [tokenize(captions)], wording, groups), poisoned)

    def further(self, material: Material) -> dict[str, Trigger]:
        """Returns triggers besides the one of `make_trigger`, by the class that each aims at; none by default."""
        return {}

    def prepare(
        self, model: DualEncoder, data: PoisonedPairs, material: Material, clean: TrainingPairs
    ) -> PoisonedPairs:
        """Returns the pairs as they are trained on; by default as `poison` gave them.

        Args:
            model: The clean model.
            data: What `poison` returned.
            material: Names and captions.
            clean: The pairs before, and which of them show which class.
        """
        return data

    def aim(self, target: str) -> Aim:
        """Returns what triggered images are to be called; the target by default."""
        return Aim(target)

    def extra_loss(self, model: DualEncoder, data: PoisonedPairs) -> ExtraLoss | None:
        """Returns what an attacker who controls the training adds to the loss; nothing by default."""
        return None


def poisoned_indices(data: PoisonedPairs) -> list[int]:
    """Returns which pairs are poisoned, for the record beside a checkpoint."""
    return data.poisoned.nonzero().flatten().tolist()
