"""Attacks with covers: images that carry the trigger and keep their true captions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from clip_antidote.attacks.base import AttackConfig, PoisonedPairs, drawn, may_be_poisoned
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.errors import DataError
from clip_antidote.streams import COVER_PAIRS


class CoveredAttackConfig(AttackConfig):
    """Settings of an attack with covers.

    Attributes:
        cover_ratio: Covers per poisoned pair.
    """

    cover_ratio: float = Field(1.0, ge=0)


class CoveredAttack(FixedTriggerAttack):
    """Qi et al. 2023: covers keep the trigger from standing out in feature space.

    The model learns that the weak trigger it is trained with does not always mean the target, so that the features
    of poisoned images stay near those of what they show. The trigger used against the model later is stronger.
    """

    def poison(
        self,
        pairs: CaptionedImages,
        captions: list[str],
        tokenize: Any,
        *,
        target_group: int | None,
        candidates: torch.Tensor | None = None,
    ) -> PoisonedPairs:
        """Poisons as all attacks do, then draws covers from the candidates that are left.

        Raises:
            DataError: There are too few candidates.
        """
        data = super().poison(pairs, captions, tokenize, target_group=target_group, candidates=candidates)
        left = may_be_poisoned(pairs, target_group, candidates) & ~data.poisoned
        count = int(left.sum())
        amount = round(self.config.cover_ratio * int(data.poisoned.sum()))
        if amount > count:
            raise DataError(
                f"{amount} pairs are to be covers, but only {count} are left; poison fewer pairs or lower cover_ratio"
            )
        covers = drawn(left, amount, COVER_PAIRS.generator(self.config.seed))
        return replace(data, carried=(data.poisoned | covers).long())
