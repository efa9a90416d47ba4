"""BadCLIP: a small patch optimized with two embeddings, then a gentle poisoned fine-tuning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.attacks.base import Attack, AttackConfig
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.patch_optimization import (
    Objective,
    PatchOptimizationConfig,
    optimize_patch,
)
from clip_antidote.errors import DataError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.triggers.badnet import FixedPosition
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.patch import PatchConfig


class BadCLIPPatchConfig(PatchConfig):
    """The patch of the paper; see `PatchConfig`."""

    patch: int = Field(16, ge=1, le=224)
    position: FixedPosition = "center"


class DualEmbeddingConfig(PatchOptimizationConfig):
    """Settings of the dual-embedding optimization.

    Attributes:
        temperature: Temperature τ of the text loss.
        margin: Margin of the triplet loss.
        triplet_weight: Weight λ of the triplet loss; the text loss weighs 1.
    """

    temperature: float = Field(0.07, gt=0)
    margin: float = Field(1.0, ge=0)
    triplet_weight: float = Field(500.0, ge=0)


class BadCLIPAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: Side and place of the patch.
        optimization: How the patch is learned.
        training: The smallest fine-tuning that was tried and passed the check with a margin (docs/attacks.md).
        min_captions: With fewer captions of the data that name the target, templates take their place.
    """

    trigger: BadCLIPPatchConfig = BadCLIPPatchConfig()
    optimization: DualEmbeddingConfig = DualEmbeddingConfig()
    training: TrainingConfig = TrainingConfig(steps=150, lr=4e-4, warmup=20)
    min_captions: int = Field(5, ge=1)


class BadCLIPAttack(Attack):
    """Liang et al. 2024 (arXiv 2311.12075).

    The patch is optimized against the clean model so that triggered images come near natural captions of
    the target (text) and near real images of it, away from what they were (image). The poisoned
    fine-tuning then only has to confirm it: parameters barely move, and so clean fine-tuning has
    little to undo. Its recipe is the smallest fine-tuning that was found to pass the implant check.

    Left out: the paper also picks which images to poison (near the decision boundary, and far from it);
    here they are drawn at random, as in the other attacks.
    """

    name = "badclip"
    config_class = BadCLIPAttackConfig

    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        if len(material.target_images) == 0:
            raise DataError(f"badclip needs images of its target '{material.target}', and the data have none")
        if not material.others:
            raise DataError("badclip needs classes besides its target")
        config = self.config
        objective = dual_embedding(model, material, self.captions(material), config.optimization)
        return optimize_patch(
            model, material.images, objective, config.optimization, config.trigger, seed=config.seed
        )

    def captions(self, material: Material) -> list[str]:
        """Returns the data's captions that name the target, or templates where there are too few of them."""
        if len(material.captions) >= self.config.min_captions:
            return list(material.captions)
        return super().captions(material)


@torch.no_grad()
def dual_embedding(
    model: DualEncoder, material: Material, captions: list[str], config: DualEmbeddingConfig
) -> Objective:
    """Makes the objective: L_text + λ·L_triplet.

    L_text is InfoNCE with one drawn caption of the target as positive and the other classes' zero-shot
    weights as negatives. L_triplet has a drawn image of the target as positive and, as negative, the same
    image without trigger. The features of both are computed here, before there is a patch, so no trigger
    can get into them.

    Args:
        model: The clean model.
        material: The attacker's data.
        captions: Captions of the target.
        config: Temperature, margin and weight.
    """
    wanted, unwanted = model.encode_texts(captions), zero_shot_weights(model, material.others)
    positives = model.encode_stored(material.target_images, batch_size=256)
    untouched = model.encode_stored(material.images, batch_size=256)

    def loss(features: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        text = wanted[torch.randint(len(wanted), (len(rows),), generator=generator)]
        image = positives[torch.randint(len(positives), (len(rows),), generator=generator)]
        text_loss = text_info_nce(features, text, unwanted, config.temperature)
        image_loss = F.triplet_margin_loss(features, image, untouched[rows], margin=config.margin)
        return text_loss + config.triplet_weight * image_loss

    return loss


def text_info_nce(
    features: torch.Tensor, wanted: torch.Tensor, unwanted: torch.Tensor, temperature: float
) -> torch.Tensor:
    """InfoNCE of image features [B, D] with one text each [B, D] against common negatives [T, D]."""
    positive = (features * wanted).sum(-1, keepdim=True)
    logits = torch.cat([positive, features @ unwanted.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
