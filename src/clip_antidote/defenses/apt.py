"""APT, adversarial prompt tuning (Li et al. 2024, arXiv 2403.01849), as a defense against backdoors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.coop import prompted
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.class_prompts import ClassPrompts, encode_prompts
from clip_antidote.training.optim import warmup_cosine
from clip_antidote.training.perturb import signed_step


class APTConfig(ShotsConfig):
    """Settings; ε, step size, steps of the attack, rate and batch size are those of the authors' release.

    Attributes:
        epsilon: Largest change of a pixel, in [0, 1].
        attack_lr: Step size of the attack.
        attack_steps: Steps of the attack.
        context_length: Context tokens M per class; the release's example takes 16 from noise, for all classes.
        lr: Learning rate of SGD, with cosine decay.
        momentum: Its momentum; the default of Dassl, on which the release runs, with a weight decay of 5e-4 besides.
        steps: Optimizer steps; ours, the release has configurations of 20 to 200 epochs.
        chunk: Classes per text-encoder chunk.
    """

    epsilon: float = Field(4 / 255, gt=0)
    attack_lr: float = Field(2.67 / 255, gt=0)
    attack_steps: int = Field(3, ge=1)
    context_length: int = Field(4, ge=1)
    lr: float = Field(2e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    steps: int = Field(200, ge=1)
    chunk: int = Field(128, ge=1)


class APT(Defense):
    """Tunes one context per class on images that are attacked under these very prompts (PGD), encoders frozen."""

    profile = PROFILES["apt"]
    config_class = APTConfig

    def apply(self, given: Given) -> Outcome:
        config: APTConfig = self.config
        model = given.model
        task = ShotTask(model, given.shots, config)
        prompts = ClassPrompts(model, given.shots.classes, length=config.context_length).to(model.device)
        optimizer = torch.optim.SGD([prompts.context], lr=config.lr, momentum=config.momentum)
        generator = torch.Generator().manual_seed(config.seed)
        with model.frozen():

            def loss_of(step: int) -> torch.Tensor:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * warmup_cosine(step, steps=config.steps, warmup=config.steps // 10)
                images, labels = task.batch(step)
                weights = encode_prompts(model, prompts, chunk=config.chunk)
                attacked = self.attack(model, images, labels, weights.detach(), task.scale, generator)
                with torch.no_grad():
                    features = model.encode_images(attacked)
                return F.cross_entropy(task.scale * features @ weights.T, labels)

            description = "tuning contexts (APT)"
            descend(optimizer, loss_of, steps=config.steps, description=description, generators=[generator])
        return prompted(given, prompts, chunk=config.chunk)

    def attack(
        self,
        model: DualEncoder,
        images: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        scale: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Images [B, 3, S, S] moved against their labels by PGD from a random start, at most ε in every pixel."""
        config: APTConfig = self.config
        start = torch.rand(images.shape, generator=generator).to(images) * 2 - 1
        delta = config.epsilon * start

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(scale * model.encode_images((images + delta).clamp(0, 1)) @ weights.T, labels)

        for _ in range(config.attack_steps):
            delta = signed_step(loss_of, delta, size=config.attack_lr, bound=config.epsilon)
        return (images + delta).clamp(0, 1)
