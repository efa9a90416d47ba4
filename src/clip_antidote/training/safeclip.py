"""SafeCLIP: the contrastive loss sees only pairs that look safe; the others train each modality by itself."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from clip_antidote.data.pairs import PairBatch
from clip_antidote.errors import UsageError
from clip_antidote.precision import autocast
from clip_antidote.streams import DEFENDED_BATCHES
from clip_antidote.training.gradients import contrastive_backward
from clip_antidote.training.loop import Objective, train_contrastive
from clip_antidote.training.losses import two_view_info_nce
from clip_antidote.training.method import DefendedConfig, Method, Task, Trained, other_view, require_alone
from clip_antidote.training.partition import Partition, similarities
from clip_antidote.training.roclip import draw_captions
from clip_antidote.training.wording import reworded


class SafeCLIPConfig(DefendedConfig):
    """Settings of SafeCLIP.

    Attributes:
        warmup: Passes of learning within each modality at the start, for a model from scratch; ours. One that knows
            something already needs none: 0.
        slow: Passes of the contrastive loss on all pairs that follow; one, as in the paper.
        slow_rate: Factor on the learning rate in these; ours.
        threshold: Posterior t of the mixture's upper component above which a pair is safe at first, 0.9 in the paper.
        growth: By what share of all pairs the safe set grows in every pass, a hundredth in the paper.
        most: Share of all pairs that it never exceeds, as in the first author's code.
    """

    name: Literal["safeclip"] = "safeclip"
    warmup: float = Field(5.0, ge=0)
    slow: float = Field(1.0, ge=0)
    slow_rate: float = Field(0.01, gt=0, le=1)
    threshold: float = Field(0.9, gt=0, lt=1)
    growth: float = Field(0.01, ge=0, le=1)
    most: float = Field(0.95, gt=0, le=1)


class SafeCLIP(Method):
    """Yang, Gao and Mirzasoleiman, ICML 2024 (arXiv 2310.05862).

    Learning within each modality first, then one pass of the contrastive loss at a small rate: after it, clean pairs
    are more alike than poisoned ones. A mixture of two Gaussians on the cosines divides them. From there on, safe
    pairs train by the contrastive loss, and images and captions of risky ones by losses within their modality; with
    every pass the data are divided anew, and the safe set grows.

    Other than in the authors' code, where one follows the other, the safe and the risky pairs of a batch train
    in one step; a pair's similarity is that of its first caption.
    """

    config_class = SafeCLIPConfig

    def train(self, task: Task) -> Trained:
        config: SafeCLIPConfig = self.config
        require_alone(config.name, task)
        course = Course(config, task)
        objective = Objective(course.backward, course.rate, course.partition)
        losses = train_contrastive(
            task.model,
            course.batch,
            task.config,
            description=task.description,
            state_file=task.state_file,
            objective=objective,
        )
        safe = course.partition.safe
        details = {"warmup_steps": course.start, "safe_at_first": round(float(course.partition.share), 4)}
        return Trained(losses, {**details, "safe_at_last": round(float(safe.double().mean()), 4)}, safe.cpu())


class Course:
    """One training: what each step does.

    Args:
        config: Settings.
        task: What is trained.

    Attributes:
        partition: Which pairs are safe, and since which pass.
        start: The step with which the safe set comes to be.

    Raises:
        UsageError: The training ends before that.
    """

    def __init__(self, config: SafeCLIPConfig, task: Task) -> None:
        self.config, self.task, self.make = config, task, task.batches()
        self.partition = Partition(len(task.pairs))
        a_pass = len(task.pairs) / task.config.batch_size
        self.slow_from = round(config.warmup * a_pass)
        self.start = round((config.warmup + config.slow) * a_pass)
        if self.start >= task.config.steps:
            raise UsageError(
                f"safeclip warms up for {self.start} steps, {config.warmup + config.slow:g} passes over "
                f"{len(task.pairs)} pairs, and the training has {task.config.steps}; train longer, or lower warmup "
                "and slow"
            )

    def batch(self, step: int) -> PairBatch:
        """Makes the batch of a step, and divides the data where a pass begins."""
        number = self.task.passes(step - self.start)
        if step >= self.start and number != int(self.partition.made):
            task = self.task
            found = similarities(task.model, task.pairs, task.transform, seed=task.seed, number=number)
            config = self.config
            self.partition.divide(found, number, threshold=config.threshold, growth=config.growth, most=config.most)
        return self.make(step)

    def rate(self, step: int) -> float:
        """The factor on the learning rate."""
        return self.config.slow_rate if self.slow_from <= step < self.start else 1.0

    def matched_rows(self, step: int) -> torch.Tensor:
        """Says for which pairs of the batch image and caption are trained to match, bool [B]."""
        rows = self.task.pairs.indices(step, self.task.config.batch_size, self.task.seed)
        if step < self.start:
            return torch.full((len(rows),), step >= self.slow_from)
        return self.partition.safe[rows]

    def backward(self, step: int, batch: PairBatch) -> float:
        """Adds the gradients of the losses of a step and returns their sum."""
        task, config = self.task, self.config
        generator = DEFENDED_BATCHES.generator(task.seed, step)
        rows = task.pairs.indices(step, task.config.batch_size, task.seed)
        safe, first = self.matched_rows(step), other_view(batch.images, config, generator)
        loss = 0.0
        if safe.any():
            own = rows[safe]  # captions of risky pairs are no negatives either
            pairs = task.pairs.pair(
                first[safe], task.pairs.first[own], task.pairs.count[own], task.pairs.groups[own], generator
            )
            loss += contrastive_backward(task.model, self.reworded(pairs, generator), precision=task.config.precision)
        if (~safe).sum() > 1:
            second = other_view(batch.images[~safe], config, generator)
            within = self.within_modalities(first[~safe], second, rows[~safe], generator)
            within.backward()
            loss += within.item()
        return loss

    def reworded(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        """The batch with its captions augmented."""
        token_ids = reworded(batch.token_ids, share=self.config.rewording, generator=generator)
        return PairBatch(batch.images, token_ids, batch.match)

    def within_modalities(
        self, first: torch.Tensor, second: torch.Tensor, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Half the sum of InfoNCE between two views of the images and between two of their captions.

        Captions of one group mean the same and are no negatives of each other, so each group has one part in it.

        Args:
            first: Float [R, 3, S, S] in [0, 1].
            second: The same images in another view.
            rows: int64 [R], which pairs they are of.
            generator: Draws captions and their wording.
        """
        model, pairs = self.task.model, self.task.pairs
        _, place = pairs.groups[rows].unique(return_inverse=True)
        each = torch.full((int(place.max()) + 1,), len(rows)).scatter_reduce(
            0, place, torch.arange(len(rows)), "amin"
        )
        texts = [pairs.token_ids[draw_captions(pairs, rows[each], generator)[0]].long() for _ in range(2)]
        texts = [reworded(text, share=self.config.rewording, generator=generator).to(model.device) for text in texts]
        with autocast(model.device, self.task.config.precision):
            images = [model.encode_images(view.to(model.device)) for view in (first, second)]
            captions = [model.encode_token_ids(text) for text in texts]
        losses = [two_view_info_nce(a, b, model.logit_scale) for a, b in (images, captions)]
        return torch.stack(losses).sum() / 2
