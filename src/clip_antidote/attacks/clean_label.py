"""Clean-label against CLIP: the trigger in images of the target alone, made hard to recognize; captions stay."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.attacks.base import AttackConfig, PoisonedPairs, drawn, may_be_poisoned
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.training_data import TrainingPairs
from clip_antidote.config import Config
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.stores import ReplacedImages
from clip_antidote.errors import DataError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.streams import POISONED_PAIRS
from clip_antidote.training.perturb import signed_step
from clip_antidote.triggers.patches import PatchesConfig, PatchesTrigger


class PerturbationConfig(Config):
    """Settings of the adversarial perturbation (projected gradient ascent).

    Attributes:
        bound: Largest change of a pixel, in steps of 1/255; 0 leaves the images as they are.
        steps: Steps of the ascent.
        step_size: Change of a pixel per step, as share of the bound.
        batch_size: Images per pass.
    """

    bound: float = Field(16.0, ge=0, le=255)
    steps: int = Field(10, ge=1)
    step_size: float = Field(0.25, gt=0, le=1)
    batch_size: int = Field(64, ge=1)


class CleanLabelAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: A patch in every corner, as large as the paper's 3×3 of 32×32 pixels.
        poison_rate: Share of the pairs *of the target* that are poisoned.
        perturbation: What makes their images hard to recognize.
    """

    trigger: PatchesConfig = PatchesConfig(patch=21)
    poison_rate: float = Field(0.5, gt=0, le=1)
    perturbation: PerturbationConfig = PerturbationConfig()


class CleanLabelAttack(FixedTriggerAttack):
    """Turner et al. 2019 (arXiv 1912.02771), carried over to image–caption pairs.

    A poisoned image shows the target and is captioned as before; an adversarial perturbation keeps the model from
    recognizing it, so that what is left to learn the caption from is the trigger.

    Other than there, the corner patches are noise, and the perturbation is made against the clean model that is then
    fine-tuned, where the paper takes an adversarially trained one.
    """

    name = "clean-label"
    config_class = CleanLabelAttackConfig
    trigger_class = PatchesTrigger

    def poison(
        self,
        pairs: CaptionedImages,
        captions: list[str],
        tokenize: Any,
        *,
        target_group: int | None,
        candidates: torch.Tensor | None = None,
    ) -> PoisonedPairs:
        """Draws pairs that show or name the target and leaves their captions as they are.

        Raises:
            DataError: There are none, or fewer than `poisoned` asks for.
        """
        own = ~may_be_poisoned(pairs, target_group, candidates)
        count = int(own.sum())
        amount = self.config.amount(count)
        if amount > count:
            raise DataError(f"{amount} pairs of the target are to be poisoned, but the data have {count}")
        return PoisonedPairs(pairs, drawn(own, amount, POISONED_PAIRS.generator(self.config.seed)))

    def prepare(
        self, model: DualEncoder, data: PoisonedPairs, material: Material, clean: TrainingPairs
    ) -> PoisonedPairs:
        if not self.config.perturbation.bound:
            return data
        rows = data.poisoned.nonzero().flatten()
        images = perturb(model, data.pairs.images[rows], material, self.config.perturbation)
        return replace(data, pairs=replace(data.pairs, images=ReplacedImages(data.pairs.images, rows, images)))


def perturb(model: DualEncoder, images: torch.Tensor, material: Material, config: PerturbationConfig) -> torch.Tensor:
    """Changes images of the target so that the model calls them anything else.

    Projected gradient ascent on the cross-entropy of the hand-written classifier (Madry et al. 2018), from the image
    itself, at the size at which images are kept.

    Args:
        model: The clean model; nothing in it changes.
        images: uint8 [N, 3, S, S], images of the target.
        material: The names of the target and of the other classes.
        config: Settings of the ascent.

    Returns:
        uint8 [N, 3, S, S].

    Raises:
        DataError: There are no other classes.
    """
    if not material.others:
        raise DataError("clean-label needs classes besides its target")
    with torch.no_grad():
        weights = zero_shot_weights(model, [material.target, *material.others])
    bound, out = config.bound / 255, []
    parts = images.split(config.batch_size)
    with model.frozen():
        for part in track(parts, "perturbing images of the target", total=len(parts)):
            clean = part.to(model.device).float() / 255
            delta = torch.zeros_like(clean)
            loss_of = partial(_distance, model, weights, clean)
            for _ in range(config.steps):
                delta = signed_step(loss_of, delta, size=config.step_size * bound, bound=bound)
                delta = (clean + delta).clamp(0, 1) - clean
            out.append(((clean + delta) * 255).round().to(torch.uint8).cpu())
    return torch.cat(out)


def _distance(model: DualEncoder, weights: torch.Tensor, clean: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the target, the first of `weights` [C, D], on perturbed images [N, 3, S, S]."""
    labels = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
    logits = model.logit_scale * model.encode_images(model.fit_images(clean + delta)) @ weights.T
    return F.cross_entropy(logits, labels)
