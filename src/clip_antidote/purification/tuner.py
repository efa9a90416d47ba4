"""Stage 2: tuning one prompt per class on cached features, both encoders frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.models.dual_encoder import DualEncoder, frozen
from clip_antidote.progress import track
from clip_antidote.prompts.class_prompts import ClassPrompts, encode_prompts
from clip_antidote.purification.config import TuningConfig
from clip_antidote.purification.losses import anchor_loss, classification_loss
from clip_antidote.training.optim import warmup_cosine


@dataclass(frozen=True)
class CachedFeatures:
    """What stage 2 sees: features, computed once.

    Attributes:
        clean: Unit features of clean views [V, D].
        labels: True classes of the clean views [V].
        triggered: Unit features of dummy-triggered views [T, D]; may be empty.
        triggered_labels: True classes of the triggered views [T].
    """

    clean: torch.Tensor
    labels: torch.Tensor
    triggered: torch.Tensor
    triggered_labels: torch.Tensor


def tune_prompts(
    model: DualEncoder,
    classes: Sequence[str],
    cached: CachedFeatures,
    anchor: torch.Tensor,
    config: TuningConfig,
    *,
    generator: torch.Generator,
    description: str = "tuning prompts",
) -> tuple[ClassPrompts, torch.Tensor]:
    """Tunes class-wise prompts with utility, reclassification and anchoring.

    Args:
        model: Frozen model.
        classes: C class names.
        cached: Clean and dummy-triggered features.
        anchor: Hand-written class weights [C, D].
        config: Settings.
        generator: CPU generator of the batches.
        description: Label of the progress bar.

    Returns:
        The prompts and the tuned class weights [C, D].
    """
    device = model.device
    prompts = ClassPrompts(model, classes, length=config.context_length, shared=config.shared_context).to(device)
    optimizer = torch.optim.Adam([prompts.context], lr=config.lr)
    scale = model.logit_scale.detach()
    anchor = anchor.to(device)

    def sample(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(len(features), (config.batch_size,), generator=generator)
        return features[rows].to(device), labels[rows].to(device)

    with frozen(model):
        for step in track(range(config.steps), description, total=config.steps):
            factor = warmup_cosine(step, steps=config.steps, warmup=min(10, config.steps // 10))
            optimizer.param_groups[0]["lr"] = config.lr * factor
            weights = encode_prompts(model, prompts, chunk=config.chunk)
            features, labels = sample(cached.clean, cached.labels)
            loss = config.utility_weight * classification_loss(features, labels, weights, scale)
            anchor_weight = config.clean_anchor_weight
            if len(cached.triggered) and config.reclassification_weight:
                anchor_weight = config.anchor_weight
                features, labels = sample(cached.triggered, cached.triggered_labels)
                loss = loss + config.reclassification_weight * classification_loss(features, labels, weights, scale)
            if anchor_weight:
                loss = loss + anchor_weight * anchor_loss(weights, anchor)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        weights = encode_prompts(model, prompts, chunk=config.chunk)
    return prompts, weights
