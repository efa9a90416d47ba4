"""CoOp, context optimization (Zhou et al. 2022, arXiv 2109.01134), with a shared context and one for each class."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from clip_antidote.defenses.base import Defense, DefenseConfig, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import descend
from clip_antidote.inversion.views import make_views
from clip_antidote.prompts.class_prompts import ClassPrompts, encode_prompts
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.losses import classification_loss
from clip_antidote.training.optim import warmup_cosine


class CoOpConfig(DefenseConfig):
    """Settings; rate, epochs and batch size are those of the authors' release for 16 shots.

    Attributes:
        context_length: Context tokens M; the release takes 16 from noise, or 4 from "a photo of a" as here.
        lr: Learning rate of SGD, with cosine decay after an epoch of warm-up; it rises in it, in the release it rests
            at 1e-5.
        momentum: Its momentum; the default of Dassl, on which the release runs.
        weight_decay: Its weight decay; likewise.
        epochs: Passes over the shots; the release takes 200 for 8 and 16, 100 for 2 and 4, 50 for 1.
        batch_size: Images per step.
        views: Augmented views of each shot, made and encoded once.
        min_scale: Smallest crop of a view as share of the area.
        chunk: Classes per text-encoder chunk; bounds the memory.
    """

    context_length: int = Field(4, ge=1)
    lr: float = Field(2e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    views: int = Field(9, ge=1)
    min_scale: float = Field(0.5, gt=0, le=1)
    chunk: int = Field(128, ge=1)


class CoOp(Defense):
    """Tunes contexts in front of the class names by cross-entropy on clean images, both encoders frozen."""

    profile = PROFILES["coop"]
    config_class = CoOpConfig
    shared: ClassVar[bool] = False

    def apply(self, given: Given) -> Outcome:
        config: CoOpConfig = self.config
        model, shots = given.model, given.shots
        prompts = ClassPrompts(model, shots.classes, length=config.context_length, shared=self.shared)
        prompts = prompts.to(model.device)
        scale = model.logit_scale.detach()
        generator = torch.Generator().manual_seed(config.seed)
        per_epoch = max(1, len(shots) // config.batch_size)
        optimizer = torch.optim.SGD(
            [prompts.context], lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        with model.frozen():
            pool = make_views(model, shots, views=config.views, min_scale=config.min_scale, seed=config.seed)
            steps = per_epoch * config.epochs

            def loss_of(step: int) -> torch.Tensor:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * warmup_cosine(step, steps=steps, warmup=min(per_epoch, steps // 10))
                rows = torch.randint(len(pool), (config.batch_size,), generator=generator)
                weights = encode_prompts(model, prompts, chunk=config.chunk)
                features, labels = pool.features[rows].to(weights), pool.labels[rows].to(weights.device)
                return classification_loss(features, labels, weights, scale)

            description = "tuning contexts (CoOp)"
            descend(optimizer, loss_of, steps=steps, description=description, generators=[generator])
        return prompted(given, prompts, chunk=config.chunk)


class SharedCoOp(CoOp):
    """With one context for all classes, CoOp's unified one."""

    profile = PROFILES["coop-shared"]
    shared = True


def prompted(given: Given, prompts: ClassPrompts, *, chunk: int) -> Outcome:
    """The classifier of tuned prompts, as an artefact without gates."""
    with torch.no_grad():
        weights = encode_prompts(given.model, prompts, chunk=chunk)
    contexts = prompts.contexts.detach().contiguous()
    classifier = PurifiedCLIP(given.model, weights.T.contiguous(), given.shots.classes, context=contexts)
    return Outcome(classifier, prompts.context.numel())
