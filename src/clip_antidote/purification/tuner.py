"""Stage 2: tuning one prompt per class on cached features, both encoders frozen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from clip_antidote.errors import ModelError
from clip_antidote.inversion.views import Observation
from clip_antidote.progress import track
from clip_antidote.prompts.class_prompts import ClassPrompts, encode_prompts
from clip_antidote.purification.config import TuningConfig
from clip_antidote.purification.dummies import TriggeredViews
from clip_antidote.purification.losses import anchor_loss, classification_loss
from clip_antidote.training.optim import warmup_cosine

LONGEST_WARMUP = 10
"""Steps of warm-up; a tenth of all where that is less."""


LARGEST_CONTEXT = 1e6
"""Beyond this a context is no word any more: token embeddings are of the order of 1 or smaller."""


@dataclass(frozen=True)
class TunedPrompts:
    """What stage 2 gives.

    Attributes:
        contexts: The context of every class [C, M, Dt].
        weights: Unit class weights of the prompts [C, D], on the model's device.
    """

    contexts: torch.Tensor
    weights: torch.Tensor


def tune_prompts(
    seen: Observation,
    triggered: TriggeredViews,
    config: TuningConfig,
    *,
    seed: int,
    anchor: torch.Tensor | None = None,
    description: str = "tuning prompts",
) -> TunedPrompts:
    """Tunes class-wise prompts with utility, reclassification and anchoring.

    Args:
        seen: The suspect and the clean views.
        triggered: Views under the dummy triggers; may be empty.
        config: Settings.
        seed: Seed of the batches.
        anchor: Class weights [C, D] the prompts are held at; the hand-written ones by default.
        description: Label of the progress bar.

    Raises:
        ModelError: The tuning diverges.
    """
    model = seen.model
    prompts = ClassPrompts(model, seen.classes, length=config.context_length, shared=config.shared_context)
    prompts = prompts.to(model.device)
    optimizer = torch.optim.Adam([prompts.context], lr=config.lr)
    loss_of = _loss(seen, triggered, config, torch.Generator().manual_seed(seed), anchor)
    warmup = min(LONGEST_WARMUP, config.steps // 10)
    with model.frozen():
        for step in track(range(config.steps), description, total=config.steps):
            factor = warmup_cosine(step, steps=config.steps, warmup=warmup)
            optimizer.param_groups[0]["lr"] = config.lr * factor
            loss = loss_of(encode_prompts(model, prompts, chunk=config.chunk))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if model.device.type == "cpu" or step == config.steps - 1:  # elsewhere it would wait for the device
                _check(loss, prompts.context, step, config)
    with torch.no_grad():
        weights = encode_prompts(model, prompts, chunk=config.chunk)
    return TunedPrompts(prompts.contexts.detach().contiguous(), weights)


def _check(loss: torch.Tensor, context: torch.Tensor, step: int, config: TuningConfig) -> None:
    """Stops a tuning that diverges: its loss may stay finite, since layer norms forget what they are given."""
    largest = context.detach().abs().amax()
    if not (math.isfinite(loss.item()) and largest.item() < LARGEST_CONTEXT):
        raise ModelError(
            f"the tuning of the prompts diverges at step {step + 1} of {config.steps}; lower the learning rate "
            f"(tuning.lr, now {config.lr:g}), or look at the model"
        )


def _loss(
    seen: Observation,
    triggered: TriggeredViews,
    config: TuningConfig,
    generator: torch.Generator,
    anchor: torch.Tensor | None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of class weights [C, D] on a batch that is drawn with every call."""
    device = seen.model.device
    scale = seen.model.logit_scale.detach()
    held = (seen.weights if anchor is None else anchor).to(device)
    reclassify = bool(len(triggered.features)) and config.reclassification_weight > 0
    anchor_weight = config.anchor_weight if reclassify else config.clean_anchor_weight

    def cross_entropy(features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        rows = torch.randint(len(features), (config.batch_size,), generator=generator)
        return classification_loss(features[rows].to(device), labels[rows].to(device), weights, scale)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        total = config.utility_weight * cross_entropy(seen.pool.features, seen.pool.labels, weights)
        if reclassify:
            own = cross_entropy(triggered.features, triggered.labels, weights)
            total = total + config.reclassification_weight * own
        if anchor_weight:
            total = total + anchor_weight * anchor_loss(weights, held)
        return total

    return loss
