"""RVPT, repulsive visual prompt tuning (Zhang et al. 2024, arXiv 2412.20392); for ViT image towers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import recorded, transformer_blocks
from clip_antidote.models.visual_prompts import PromptedEncoder, token_width
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.training.optim import warmup_cosine


class RVPTConfig(ShotsConfig):
    """Settings, all ours: the abstract gives the form of the loss, and the authors' repository holds no code.

    Attributes:
        prompts: Prompt tokens in every block.
        repel_weight: α, the weight of the feature-repelling loss.
        repel_blocks: From how many of the last blocks features are repelled.
        start: Standard deviation of the noise that prompts start at.
        lr: Learning rate of SGD, with cosine decay.
        momentum: Its momentum.
        steps: Optimizer steps.
    """

    prompts: int = Field(50, ge=1)
    repel_weight: float = Field(2.0, ge=0)
    repel_blocks: int = Field(3, ge=1)
    start: float = Field(0.02, gt=0)
    lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    steps: int = Field(300, ge=1)


class RVPT(Defense):
    """Tunes prompts in every block of the ViT so that only what predicts the classes is still encoded.

    L = CE + α·(mean cosine between the class tokens of the last blocks with and without prompts): features are
    repelled from the suspect's own while they have to tell the classes apart. Both encoders stay frozen.
    """

    profile = PROFILES["rvpt"]
    config_class = RVPTConfig

    def apply(self, given: Given) -> Outcome:
        config: RVPTConfig = self.config
        suspect = given.model
        task = ShotTask(suspect, given.shots, config)
        generator = torch.Generator().manual_seed(config.seed)
        shape = (len(transformer_blocks(suspect)), config.prompts, token_width(suspect))
        with suspect.frozen():
            prompted = PromptedEncoder(suspect, torch.randn(shape, generator=generator) * config.start)
            optimizer = torch.optim.SGD([prompted.prompts], lr=config.lr, momentum=config.momentum)

            def loss_of(step: int) -> torch.Tensor:
                factor = warmup_cosine(step, steps=config.steps, warmup=config.steps // 10)
                optimizer.param_groups[0]["lr"] = config.lr * factor
                images, labels = task.batch(step)
                with torch.no_grad():
                    _, kept = self._seen(suspect, suspect, images)
                features, moved = self._seen(prompted, suspect, images)
                alike = torch.stack([F.cosine_similarity(a, b).mean() for a, b in zip(moved, kept, strict=True)])
                return F.cross_entropy(task.logits(features), labels) + config.repel_weight * alike.mean()

            descend(optimizer, loss_of, steps=config.steps, description="RVPT", clip=1.0)
        prompted.prompts.requires_grad_(False)
        classifier = ZeroShotClassifier(prompted, task.weights.T.contiguous(), given.shots.classes)
        kept_prompts = prompted.prompts.detach()
        return Outcome(classifier, kept_prompts.numel(), tensors={"visual_prompts": kept_prompts})

    def _seen(
        self, model: DualEncoder, suspect: DualEncoder, images: torch.Tensor
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Unit features, and the class tokens [B, W] of the last blocks."""
        with recorded(transformer_blocks(suspect)[-self.config.repel_blocks :]) as outputs:
            features = model.encode_images(images)
        return features, [output[:, 0] for output in outputs]
