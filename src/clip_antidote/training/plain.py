"""Contrastive training as ever."""

from __future__ import annotations

from typing import Literal

from clip_antidote.training.finetune import finetune
from clip_antidote.training.method import Method, MethodConfig, Task, Trained


class PlainConfig(MethodConfig):
    """There is nothing to set."""

    name: Literal["clip"] = "clip"


class Plain(Method):
    """CLIP's loss on all pairs (Radford et al. 2021): what a defense is compared with."""

    config_class = PlainConfig

    def train(self, task: Task) -> Trained:
        losses = finetune(
            task.model,
            task.pairs,
            task.config,
            min_scale=task.min_scale,
            seed=task.seed,
            transform=task.transform,
            extra_loss=task.extra_loss,
            description=task.description,
            state_file=task.state_file,
        )
        return Trained(losses)
