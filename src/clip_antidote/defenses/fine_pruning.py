"""Fine-Pruning (Liu, Dolan-Gavitt and Garg 2018, arXiv 1805.12185), on the image tower."""

from __future__ import annotations

import copy

import torch
from pydantic import Field

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.held_out import clean_accuracy, hold_out
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, count, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import before_projection, drop_units, image_parameters
from clip_antidote.prompts.classifier import ZeroShotClassifier


class FinePruningConfig(ShotsConfig):
    """Settings, all ours: that pruning ends by clean accuracy is the paper's, its numbers were not checked.

    Attributes:
        max_drop: Pruning stops before the accuracy on held-out shots falls by more than this; BackdoorBench allows a
            tenth of the accuracy.
        chunks: In how many parts the units are pruned.
        lr: Learning rate of AdamW while fine-tuning.
        steps: Steps of the fine-tuning.
    """

    max_drop: float = Field(0.04, ge=0, le=1)
    chunks: int = Field(20, ge=2)
    lr: float = Field(1e-4, gt=0)
    steps: int = Field(100, ge=0)


class FinePruning(Defense):
    """Prunes the units of the last layer that clean images leave dormant, then fine-tunes the image tower.

    The last layer is the one before the projection into the common feature space. Dormant are units with the
    smallest mean magnitude over the clean shots, since those of a transformer have both signs.
    """

    profile = PROFILES["fine-pruning"]
    config_class = FinePruningConfig

    def apply(self, given: Given) -> Outcome:
        config: FinePruningConfig = self.config
        kept, held = hold_out(given.shots, seed=config.seed)
        model = copy.deepcopy(given.model)
        task = ShotTask(given.model, kept, config)
        with model.frozen():
            units = self._activity(model, kept)
            dropped = self._prune(given.model, model, units.argsort(stable=True), task.weights, held)
        with model.evaluating():
            model.requires_grad_(False)
            parameters = [parameter.requires_grad_(True) for parameter in image_parameters(model)]
            descend(
                torch.optim.AdamW(parameters, lr=config.lr),
                lambda step: task.loss(model, *task.batch(step)),
                steps=config.steps,
                description="fine-tuning the pruned tower",
                after=lambda step: drop_units(model, dropped),
            )
        classifier = ZeroShotClassifier(model.requires_grad_(False), task.weights.T.contiguous(), given.shots.classes)
        details = {"pruned": int(dropped.sum()), "units": len(dropped)}
        return Outcome(classifier, count(parameters), details)

    @torch.no_grad()
    def _activity(self, model: DualEncoder, shots: LabelledImages) -> torch.Tensor:
        """Mean magnitude of the units of the last layer over clean images, [U]."""
        with before_projection(model):
            batches = shots.batches(model.image_size, mode=model.resize_mode)
            parts = [model.raw_image_features(images.to(model.device)).abs() for images, _ in batches]
        return torch.cat(parts).mean(dim=0)

    def _prune(
        self,
        suspect: DualEncoder,
        model: DualEncoder,
        order: torch.Tensor,
        weights: torch.Tensor,
        held: LabelledImages,
    ) -> torch.Tensor:
        """Cuts units off in this order as long as held-out accuracy allows; says which, bool [U]."""
        config: FinePruningConfig = self.config
        least = clean_accuracy(ZeroShotClassifier(suspect, weights.T.contiguous(), held.classes), held)
        least -= config.max_drop
        dropped = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        for part in range(1, config.chunks):
            tried = dropped.clone()
            tried[order[: len(order) * part // config.chunks]] = True
            trial = copy.deepcopy(model)
            drop_units(trial, tried)
            if clean_accuracy(ZeroShotClassifier(trial, weights.T.contiguous(), held.classes), held) < least:
                break
            dropped = tried
        drop_units(model, dropped)
        return dropped
