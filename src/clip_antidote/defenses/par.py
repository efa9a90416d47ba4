"""PAR, perturb and recover (Singh, Croce and Hein 2024, arXiv 2412.00727)."""

from __future__ import annotations

import copy

import torch
from pydantic import Field

from clip_antidote.data.captions import pairs_from_labels
from clip_antidote.data.pairs import PairBatch
from clip_antidote.defenses.base import Defense, DefenseConfig, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import count
from clip_antidote.defenses.unfinished import next_part
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES
from clip_antidote.training.augment import STORE_MARGIN
from clip_antidote.training.finetune import finetune
from clip_antidote.training.loop import TrainingConfig


class PARConfig(DefenseConfig):
    """Settings.

    Attributes:
        training: The fine-tuning; the authors' release takes two passes over 250 000 pairs at 3e-6, in batches of 512
            on each of four GPUs.
        threshold: τ, 2.15 in the authors' release: a modality whose features are farther than this from the suspect's
            is not pushed on. Squared distance of unit vectors, so 2 is a right angle.
        weight: Weight of the push in each modality; ½ in the release.
        class_bank: Whether every batch also holds one caption of each class, as negatives.
        min_scale: Smallest crop as share of the area.
    """

    training: TrainingConfig = TrainingConfig(steps=150, batch_size=64, lr=4e-4, warmup=10)
    threshold: float = Field(2.15, ge=0, le=4)
    weight: float = Field(0.5, ge=0)
    class_bank: bool = True
    min_scale: float = Field(0.5, gt=0, le=1)


def push(moved: torch.Tensor, kept: torch.Tensor, threshold: float) -> torch.Tensor:
    """How far unit features [N, D] are from where they were, as far as that is below the threshold.

    The mean of |f_i − f⁰_i|², or 0 (without gradient) beyond τ: L_PERT of one modality.
    """
    distance = (moved - kept).square().sum(dim=-1).mean()
    return torch.where(distance > threshold, torch.zeros_like(distance), distance)


class PAR(Defense):
    """Fine-tunes both encoders on clean pairs while it pushes their features away from the suspect's.

    L = L_CLIP − ½·(push of the image features + push of the text features): the backdoor lives in the features as
    they are, and what is left of them is recovered by the contrastive loss alone.
    """

    profile = PROFILES["par"]
    config_class = PARConfig

    def apply(self, given: Given) -> Outcome:
        config: PARConfig = self.config
        model, shots = given.model, given.shots
        size = round(model.image_size * STORE_MARGIN)
        pairs = pairs_from_labels(shots, model.tokenize, size, mode=model.resize_mode, class_bank=config.class_bank)
        tuned = copy.deepcopy(model).requires_grad_(True)
        with model.evaluating():
            finetune(
                tuned,
                pairs,
                config.training,
                min_scale=config.min_scale,
                seed=config.seed,
                extra_loss=lambda step, batch: self._away(tuned, model, batch),
                description="PAR",
                state_file=next_part(),
            )
        tuned.requires_grad_(False)
        classifier = ZeroShotClassifier.from_templates(tuned, shots.classes, IMAGENET_TEMPLATES)
        return Outcome(classifier, count(tuned.parameters()))

    def _away(self, tuned: DualEncoder, model: DualEncoder, batch: PairBatch) -> torch.Tensor:
        images, ids = batch.images.to(tuned.device), batch.token_ids.to(tuned.device)
        with torch.no_grad():
            seen, read = model.encode_images(images), model.encode_token_ids(ids)
        threshold = self.config.threshold
        moved = push(tuned.encode_images(images), seen, threshold) + push(
            tuned.encode_token_ids(ids), read, threshold
        )
        return -self.config.weight * moved
