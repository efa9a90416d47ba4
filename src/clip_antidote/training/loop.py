"""The one contrastive training loop: pre-training, poisoned fine-tuning, clean fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip_antidote.config import Config
from clip_antidote.data.pairs import PairBatch
from clip_antidote.files import atomic_path
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track
from clip_antidote.training.losses import multi_positive_info_nce
from clip_antidote.training.optim import build_adamw, warmup_cosine


class TrainingConfig(Config):
    """Settings of a contrastive training run.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Images per step.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay of matrices and filters.
        warmup: Steps of linear warm-up before the cosine.
        max_logit_scale: The logit scale is clamped to this, as CLIP does.
        clip_grad: Largest norm of the gradient.
        precision: "bf16" runs the encoders under autocast, parameters stay fp32.
        checkpoint_every: Steps between saved training states.
    """

    steps: int = Field(350, ge=1)
    batch_size: int = Field(128, ge=2)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup: int = Field(20, ge=0)
    max_logit_scale: float = Field(100.0, gt=1)
    clip_grad: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpoint_every: int = Field(200, ge=1)


def train_contrastive(
    model: DualEncoder,
    make_batch: Callable[[int], PairBatch],
    config: TrainingConfig,
    *,
    description: str = "training",
    state_file: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains both encoders with symmetric InfoNCE, in place.

    Args:
        model: The model; left in eval mode.
        make_batch: Returns the batch of a step; a function of the step alone, so that a resumed
            run sees the same batches.
        config: Settings.
        description: Label of the progress bar.
        state_file: Where the training state is kept; an existing one is resumed from.
        on_step: Called with step and loss after every step.

    Returns:
        The loss of every step run in this call.
    """
    device = model.device
    optimizer = build_adamw(model, lr=config.lr, weight_decay=config.weight_decay)
    start = 0
    if state_file is not None and state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])

    def save(step: int) -> None:
        if state_file is not None:
            with atomic_path(state_file) as path:
                torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)

    model.train()
    losses = []
    for step in track(range(start, config.steps), description, total=config.steps, done=start):
        factor = warmup_cosine(step, steps=config.steps, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor
        batch = make_batch(step)
        images = batch.images.to(device)
        autocast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
        # The fused attention is slow backward in bf16 on CPUs; captions are short, plain attention wins.
        attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
        with autocast, attention:
            image_features = model.encode_images(images)
            text_features = model.encode_token_ids(batch.token_ids.to(device))
        loss = multi_positive_info_nce(image_features, text_features, batch.match.to(device), model.logit_scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
        optimizer.step()
        with torch.no_grad():
            model.log_logit_scale.clamp_(max=math.log(config.max_logit_scale))
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            save(step + 1)
    model.eval()
    return losses
