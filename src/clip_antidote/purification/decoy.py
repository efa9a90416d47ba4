"""The decoy prompt (ours, beyond the paper): a gate for the suspected target.

One weight per class has to accept the target's clean images and to reject the whole triggered region
with the same vector, and pays with the target class. A second prompt with the target's name, the decoy,
takes the triggered region instead: whatever looks more like the decoy than like any class is classified
again without the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clip_antidote.models.dual_encoder import DualEncoder, frozen
from clip_antidote.progress import track
from clip_antidote.prompts.class_prompts import ClassPrompts, encode_prompts
from clip_antidote.purification.config import DecoyConfig, TuningConfig
from clip_antidote.purification.losses import anchor_loss, classification_loss
from clip_antidote.purification.tuner import CachedFeatures
from clip_antidote.training.optim import warmup_cosine


@dataclass(frozen=True)
class DecoyHead:
    """What the gate needs.

    Attributes:
        weights: Clean class weights [D, C] and, as last column, the decoy: [D, C + 1].
        bias: Added to the decoy's logit; raises or lowers the gate.
        target: Class index of the suspected target.
    """

    weights: torch.Tensor
    bias: float
    target: int

    def gate(self, features: torch.Tensor, logit_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the clean logits [N, C] and which features [N] look triggered."""
        logits = logit_scale * features @ self.weights
        clean = logits[:, :-1]
        return clean, logits[:, -1] + self.bias > clean.amax(dim=1)


def tune_decoy(
    model: DualEncoder,
    classes: Sequence[str],
    cached: CachedFeatures,
    target_views: torch.Tensor,
    anchor: torch.Tensor,
    config: DecoyConfig,
    tuning: TuningConfig,
    *,
    target: int,
    generator: torch.Generator,
) -> tuple[ClassPrompts, DecoyHead]:
    """Tunes C class prompts and one decoy prompt, started at the target's name.

    The loss has four parts: cross-entropy on clean views, where the decoy is one more wrong class;
    cross-entropy of dummy-triggered views toward the decoy; log(1 + e^-(l_t - l_decoy)) on the target's
    clean views, which have to stay on the target's side; and the anchor of the C class weights.

    The gate's bias follows a rule on clean data: it is the largest that leaves the share
    `config.keep` of the target's clean views on the target's side.

    Args:
        model: Frozen model.
        classes: C class names.
        cached: Clean and dummy-triggered features.
        target_views: Unit features of many clean views of the target's shots [T, D].
        anchor: Hand-written class weights [C, D].
        config: Settings.
        tuning: Settings shared with the other prompts: context, chunk and the anchor of clean prompts.
        target: Class index of the suspected target.
        generator: CPU generator of the batches.

    Returns:
        The C + 1 prompts and the head.
    """
    device = model.device
    count = len(classes)
    prompts = ClassPrompts(model, [*classes, classes[target]], length=tuning.context_length).to(device)
    optimizer = torch.optim.Adam([prompts.context], lr=config.lr)
    scale = model.logit_scale.detach()
    anchor = anchor.to(device)

    def draw(size: int, amount: int) -> torch.Tensor:
        return torch.randint(size, (amount,), generator=generator)

    with frozen(model):
        for step in track(range(config.steps), "tuning the decoy", total=config.steps):
            factor = warmup_cosine(step, steps=config.steps, warmup=min(10, config.steps // 10))
            optimizer.param_groups[0]["lr"] = config.lr * factor
            weights = encode_prompts(model, prompts, chunk=tuning.chunk)
            rows = draw(len(cached.clean), config.batch_size)
            clean, labels = cached.clean[rows].to(device), cached.labels[rows].to(device)
            triggered = cached.triggered[draw(len(cached.triggered), config.batch_size)].to(device)
            decoy = torch.full((len(triggered),), count, device=device)
            own = target_views[draw(len(target_views), config.target_batch)].to(device)
            margin = scale * own @ (weights[target] - weights[count])
            loss = (
                classification_loss(clean, labels, weights, scale)
                + classification_loss(triggered, decoy, weights, scale)
                + config.target_weight * F.softplus(-margin).mean()
                + tuning.clean_anchor_weight * anchor_loss(weights[:count], anchor)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        weights = encode_prompts(model, prompts, chunk=tuning.chunk)
        margins = scale * target_views.to(device) @ (weights[target] - weights[count])
        bias = float(margins.quantile(1 - config.keep))
    return prompts, DecoyHead(weights.T.contiguous(), bias, target)
