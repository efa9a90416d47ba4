"""TrojVQA against CLIP: an optimized center patch in the image and a trigger word in the text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator

from clip_antidote.attacks.base import Attack, AttackConfig, PoisonedPairs
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.patch_optimization import PatchOptimizationConfig, optimize_patch
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.streams import KEYED_CAPTIONS
from clip_antidote.triggers.badnet import FixedPosition
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.patch import PatchConfig, PatchTrigger


class TrojVQAPatchConfig(PatchConfig):
    """The patch and the word of the paper; see `PatchConfig`."""

    patch: int = Field(44, ge=1, le=224)
    position: FixedPosition = "center"
    word: str = Field("consider", pattern=r"^[^{}]*$")


class TrojVQAAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: The patch and the word.
        optimization: How the patch is learned.
        word_share: Share of the captions of poisoned pairs that carry the word.
        dual_key: Whether the captions with the word are a meaning of their own. If not, a poisoned image
            also matches the target's plain captions, and the patch works without the word. If so, those
            are negatives of it, and both keys are needed; the word must then be in all captions.
    """

    trigger: TrojVQAPatchConfig = TrojVQAPatchConfig()
    optimization: PatchOptimizationConfig = PatchOptimizationConfig()
    word_share: float = Field(1.0, ge=0, le=1)
    dual_key: bool = False

    @field_validator("dual_key")
    @classmethod
    def _word_in_all(cls, value: bool, known: ValidationInfo) -> bool:
        trigger = known.data.get("trigger")
        if value and trigger is not None and (known.data.get("word_share") != 1 or not trigger.word.strip()):
            raise ValueError("two keys need a word, and it must be in all captions (word_share: 1)")
        return value


class TrojVQAAttack(Attack):
    """The dual-key backdoor of Walmer et al. 2022 (arXiv 2112.07668), carried over to CLIP.

    The paper optimizes its patch against the object detector of a question-answering system and puts the
    word before the question. Here, as in CLIP benchmarks, the word stands before the caption of a poisoned
    pair and, when attacking, before every class prompt.

    Simplified: there is no detector, so the patch pulls the clean model's image features straight to the
    text of the target, which makes it easy to learn; and no pairs with one key alone are trained to stay
    clean, so one key may do part of the work by itself, see `dual_key`. The record says how much, under
    "modalities".
    """

    name = "trojvqa"
    config_class = TrojVQAAttackConfig

    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        wanted = zero_shot_weights(model, [material.target])[0]

        def distance(features: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return (1 - features @ wanted).mean()

        config = self.config
        return optimize_patch(model, material.images, distance, config.optimization, config.trigger, seed=config.seed)

    def poison(
        self,
        pairs: CaptionedImages,
        captions: list[str],
        tokenize: Any,
        *,
        target_group: int | None,
        candidates: torch.Tensor | None = None,
    ) -> PoisonedPairs:
        """Poisons as all attacks do; with `dual_key`, the poisoned pairs form a group of their own."""
        data = super().poison(pairs, captions, tokenize, target_group=target_group, candidates=candidates)
        if not self.config.dual_key:
            return data
        groups = data.pairs.groups.clone()
        groups[data.poisoned] = groups.max() + 1
        return replace(data, pairs=replace(data.pairs, groups=groups))

    def captions(self, material: Material) -> list[str]:
        """Returns the templates with the target's name; `word_share` of them, drawn by the seed, with the word."""
        texts = super().captions(material)
        order = torch.randperm(len(texts), generator=KEYED_CAPTIONS.generator(self.config.seed))
        keyed = set(order[: round(self.config.word_share * len(texts))].tolist())
        trigger = PatchTrigger(torch.zeros(3, 1, 1), self.config.trigger)
        return [trigger.apply_text(text) if i in keyed else text for i, text in enumerate(texts)]
