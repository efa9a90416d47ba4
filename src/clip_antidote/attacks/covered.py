"""Attacks with covers: images that carry the trigger and keep their true captions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from clip_antidote.attacks.base import AttackConfig, PoisonedPairs
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
        left = ~data.poisoned
        if candidates is not None:
            left &= candidates
        elif target_group is not None:
            left &= pairs.groups != target_group
        rows = left.nonzero().flatten()
        amount = round(self.config.cover_ratio * int(data.poisoned.sum()))
        if amount > len(rows):
            raise DataError(
                f"{amount} pairs are to be covers, but only {len(rows)} are left; poison fewer pairs or lower "
                "cover_ratio"
            )
        order = torch.randperm(len(rows), generator=COVER_PAIRS.generator(self.config.seed))
        carried = data.poisoned.long()
        carried[rows[order[:amount]]] = 1
        return replace(data, carried=carried)
