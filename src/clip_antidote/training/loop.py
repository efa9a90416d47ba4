"""The one contrastive training loop: pre-training, poisoned fine-tuning, clean fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from clip_antidote.config import Config
from clip_antidote.data.pairs import PairBatch
from clip_antidote.errors import DataError, ModelError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import Precision, autocast
from clip_antidote.progress import track
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.gradients import contrastive_backward
from clip_antidote.training.interrupt import held_interrupt
from clip_antidote.training.optim import build_adamw, warmup_cosine
from clip_antidote.training.state import TrainingState
from clip_antidote.training.step_log import log_step

ExtraLoss = Callable[[int, PairBatch], torch.Tensor]
"""What is added to the loss of a step, from step and batch."""


@dataclass(frozen=True)
class Objective:
    """What a training lowers in the place of the contrastive loss of the whole batch; for one process.

    Attributes:
        backward: Adds the gradient of a step to the parameters and returns its loss, from step and batch.
        rate: Factor on the learning rate, from the step; 1 by default.
        memory: What is learned about the data on the way, in buffers: kept and resumed with the state.
    """

    backward: Callable[[int, PairBatch], float]
    rate: Callable[[int], float] | None = None
    memory: nn.Module | None = None


class TrainingConfig(Config):
    """Settings of a contrastive training run.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Images per step, of all processes together.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay of matrices and filters.
        betas: AdamW's decay of the gradient's mean and of its square.
        eps: AdamW's ε.
        warmup: Steps of linear warm-up before the cosine.
        max_logit_scale: The logit scale is clamped to this, as CLIP does.
        clip_grad: Largest norm of the gradient.
        accumulate: In how many chunks a process works through its part of a batch, to need less memory.
            The negatives are those of the whole batch, see `contrastive_backward`.
        precision: What the encoders run in; "bf16" is autocast, "auto" takes it where the device has it; parameters
            stay fp32.
        checkpoint_every: Steps between saved training states.
    """

    steps: int = Field(350, ge=1)
    batch_size: int = Field(128, ge=2)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0)
    warmup: int = Field(20, ge=0)
    max_logit_scale: float = Field(100.0, gt=1)
    clip_grad: float = Field(1.0, gt=0)
    accumulate: int = Field(1, ge=1)
    precision: Precision = "auto"
    checkpoint_every: int = Field(200, ge=1)


def train_contrastive(
    model: DualEncoder,
    make_batch: Callable[[int], PairBatch],
    config: TrainingConfig,
    *,
    description: str = "training",
    state_file: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    extra_loss: ExtraLoss | None = None,
    objective: Objective | None = None,
) -> list[float]:
    """Trains both encoders with symmetric InfoNCE, in place.

    Where torch's process group has several processes, they train together: all call this, and the first one keeps the
    state. Batch norm takes its statistics within a process; the running ones that are kept are those of the first.

    Ctrl-C ends the current step, saves the state and raises KeyboardInterrupt; a second one does not wait.

    Args:
        model: The model; left in eval mode.
        make_batch: Returns the batch of a step; a function of step and state, so that a resumed run sees the same.
        config: Settings.
        description: Label of the progress bar.
        state_file: Where the training state is kept; an existing one is resumed from.
        on_step: Called with step and loss after every step.
        extra_loss: What is added to the loss, from step and batch; for one process and no accumulation.
        objective: What to lower instead of the contrastive loss.

    Returns:
        The loss of every step run in this call.

    Raises:
        ModelError: The training diverges; the state that was saved before stays.
    """
    ranks = Ranks.current()
    optimizer = build_adamw(model, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas, eps=config.eps)
    kept = objective.memory if objective is not None else None
    state = TrainingState(model, optimizer, state_file, device=model.device, ranks=ranks, memory=kept)
    take_step = partial(_take_step, model, optimizer, config, ranks=ranks, extra_loss=extra_loss, objective=objective)
    start = state.load(steps=config.steps)
    model.train()
    losses = []
    try:
        with held_interrupt() as interrupted:
            for step in track(range(start, config.steps), description, total=config.steps, done=start):
                batch = make_batch(step)
                state.step = None
                losses.append(take_step(step, batch))
                state.step = step + 1
                if on_step is not None:
                    on_step(step, losses[-1])
                if ranks.any(interrupted()):
                    raise KeyboardInterrupt
                if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                    state.save()
    except (KeyboardInterrupt, DataError):  # an image that cannot be read may be mended
        state.save()
        raise
    model.eval()
    return losses


def _take_step(
    model: DualEncoder,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    step: int,
    batch: PairBatch,
    *,
    ranks: Ranks,
    extra_loss: ExtraLoss | None,
    objective: Objective | None,
) -> float:
    """Moves the weights by one batch and returns its loss."""
    factor = warmup_cosine(step, steps=config.steps, warmup=config.warmup)
    if objective is not None and objective.rate is not None:
        factor *= objective.rate(step)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * factor
    optimizer.zero_grad(set_to_none=True)
    if objective is not None:
        loss = objective.backward(step, batch)
    else:
        loss = contrastive_backward(model, batch, chunks=config.accumulate, precision=config.precision, ranks=ranks)
    if extra_loss is not None:
        with autocast(model.device, config.precision):
            extra = extra_loss(step, batch)
        extra.backward()
        loss += extra.item()
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of the training is {loss} at step {step + 1} of {config.steps}; lower the learning rate (lr, "
            f"now {config.lr:g}), or look at the model"
        )
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
    optimizer.step()
    with torch.no_grad():
        model.log_logit_scale.clamp_(max=math.log(config.max_logit_scale))
    log_step(step, loss=loss, learning_rate=config.lr * factor, logit_scale=float(model.logit_scale.detach()))
    return loss
