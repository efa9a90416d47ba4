"""Optimizing a patch against a frozen clean model: shared by the attacks that learn theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track
from clip_antidote.streams import PATCH_NOISE, step_generator
from clip_antidote.triggers.badnet import scaled_side
from clip_antidote.triggers.patch import PatchConfig, PatchTrigger

Objective = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""Maps unit features of triggered images [B, D], the rows of these images [B] and a generator to a loss."""


class PatchOptimizationConfig(Config):
    """Settings of the optimization.

    Attributes:
        steps: Number of Adam steps.
        lr: Learning rate of the logits of the pixels.
        batch_size: Images per step.
    """

    steps: int = Field(200, ge=0)
    lr: float = Field(0.1, gt=0)
    batch_size: int = Field(64, ge=1)


def optimize_patch(
    model: DualEncoder,
    images: torch.Tensor,
    objective: Objective,
    config: PatchOptimizationConfig,
    patch: PatchConfig,
    *,
    seed: int = 0,
    description: str = "optimizing the patch",
) -> PatchTrigger:
    """Learns the pixels of a patch at the model's input size.

    The pixels are the sigmoid of what Adam moves, so they stay in (0, 1); they begin as uniform noise.

    Args:
        model: The clean model; nothing in it changes.
        images: uint8 [N, 3, S, S], images to put the patch on.
        objective: What is minimized.
        config: Settings of the optimization.
        patch: Side, place and word of the trigger.
        seed: Seed of the noise, the batches and the draws of the objective.
        description: Label of the progress bar.
    """
    model.eval()
    side = scaled_side(patch.patch, images.shape[-1])
    noise = torch.rand(3, side, side, generator=PATCH_NOISE.generator(seed))
    logits = torch.logit(noise, eps=0.01).to(model.device).requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=config.lr)
    size = min(config.batch_size, len(images))
    with model.frozen():
        for step in track(range(config.steps), description, total=config.steps):
            generator = step_generator(seed, step)
            rows = torch.randperm(len(images), generator=generator)[:size]
            batch = images[rows].to(model.device).float() / 255
            features = model.encode_images(PatchTrigger(logits.sigmoid(), patch)(batch))
            loss = objective(features, rows, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return PatchTrigger(logits.detach().sigmoid().cpu(), patch)
