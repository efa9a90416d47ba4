"""InverTune, trigger inversion and activation tuning (Sun et al. 2025, arXiv 2506.12411)."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, count, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import image_parameters, recorded, stages
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.training.perturb import signed_step
from clip_antidote.triggers.mask import MaskTrigger

FAINT = -2.0
"""Logit the mask starts at: an eighth of the pattern shows everywhere."""


class InverTuneConfig(ShotsConfig):
    """Settings.

    The weights of the inversion are those of the authors' release, whose terms differ: there, features keep close to
    those of images of the target and by an unsquared norm, the mask has three channels, and Adam takes 1000 steps at
    0.01. It tunes at 2e-6 for 200 steps, over three stages, and weighs clean features by 0.5. What is not in its
    configuration or README is ours.

    Attributes:
        probe_bound: Largest change of a pixel by the universal perturbation that shows the target, in [0, 1].
        probe_steps: Its steps.
        probe_lr: Its step size, with signed gradients.
        invert_steps: Steps of the trigger inversion.
        invert_lr: Its learning rate (Adam).
        text_weight: Weight of the cross-entropy to the target's text.
        feature_weight: Weight of the squared distance of features to the target's text.
        similarity_weight: Weight of 1 − SSIM between clean and triggered image.
        mask_weight: Weight of the sum of the mask.
        tune_steps: Steps of the activation tuning.
        tune_lr: Its learning rate (AdamW).
        keep_weight: Weight of the distance of clean features to those of the suspect.
    """

    probe_bound: float = Field(16 / 255, gt=0, le=1)
    probe_steps: int = Field(40, ge=1)
    probe_lr: float = Field(2 / 255, gt=0)
    invert_steps: int = Field(200, ge=1)
    invert_lr: float = Field(0.05, gt=0)
    text_weight: float = Field(5.0, ge=0)
    feature_weight: float = Field(0.5, ge=0)
    similarity_weight: float = Field(1.0, ge=0)
    mask_weight: float = Field(0.01, ge=0)
    tune_steps: int = Field(100, ge=1)
    tune_lr: float = Field(1e-4, gt=0)
    keep_weight: float = Field(10.0, ge=0)


class InverTune(Defense):
    """Finds the target by an attack, inverts its trigger, and tunes the neurons that the trigger moves.

    1. A universal perturbation is optimized to mislead; the class whose share grows most is the target.
    2. Mask and pattern of a trigger to this target are inverted.
    3. At the stage where the trigger moves channels most, these are split into two clusters; the image tower is tuned
       so that the moved ones do under the trigger what they do without, and clean features stay where they are.
    """

    profile = PROFILES["invertune"]
    config_class = InverTuneConfig

    def apply(self, given: Given) -> Outcome:
        config: InverTuneConfig = self.config
        suspect = given.model
        task = ShotTask(suspect, given.shots, config)
        with suspect.frozen():
            target = find_target(suspect, task, config)
            trigger = invert_trigger(suspect, task, target, config)
            stage, channels = moved_channels(suspect, task, trigger)
        model = copy.deepcopy(suspect).requires_grad_(False)
        parameters = [parameter.requires_grad_(True) for parameter in image_parameters(model)]

        def loss_of(step: int) -> torch.Tensor:
            images, _ = task.batch(step)
            with torch.no_grad(), recorded([stages(suspect)[stage]]) as wanted:
                clean = suspect.encode_images(images)
            with recorded([stages(model)[stage]]) as found:
                model.encode_images(trigger(images))
            moved = (channel_means(found[0]) - channel_means(wanted[0]))[:, channels]
            scale = channel_means(wanted[0])[:, channels].square().mean().clamp_min(1e-12)
            kept = 1 - (model.encode_images(images) * clean).sum(dim=-1).mean()
            return moved.square().mean() / scale + config.keep_weight * kept

        with model.evaluating(), suspect.evaluating():
            descend(
                torch.optim.AdamW(parameters, lr=config.tune_lr),
                loss_of,
                steps=config.tune_steps,
                description="InverTune, tuning activations",
                clip=1.0,
            )
        classifier = ZeroShotClassifier(model.requires_grad_(False), task.weights.T.contiguous(), task.classes)
        details = {"target_suspected": task.classes[target], "stage": stage, "channels": int(channels.sum())}
        return Outcome(classifier, count(parameters), details)


def channel_means(activation: torch.Tensor) -> torch.Tensor:
    """The mean of every channel [N, C] of a feature map [N, C, h, w] or of tokens [N, L, C]."""
    return activation.mean(dim=(2, 3)) if activation.ndim == 4 else activation.mean(dim=1)


def find_target(model: DualEncoder, task: ShotTask, config: InverTuneConfig) -> int:
    """The class whose share of predictions grows most under a universal perturbation that is to mislead."""
    delta = torch.zeros(1, 3, model.image_size, model.image_size, device=model.device)
    for step in range(config.probe_steps):
        loss_of = partial(_perturbed_loss, task, model, *task.batch(step))
        delta = signed_step(loss_of, delta, size=config.probe_lr, bound=config.probe_bound)
    grown = torch.zeros(len(task.classes), device=model.device)
    with torch.no_grad():
        for step in range(8):
            images, _ = task.batch(step)
            for pixels, sign in ((images, -1), ((images + delta).clamp(0, 1), 1)):
                called = task.logits(model.encode_images(pixels)).argmax(-1)
                grown += sign * called.bincount(minlength=len(grown))
    return int(grown.argmax())


def _perturbed_loss(
    task: ShotTask, model: DualEncoder, images: torch.Tensor, labels: torch.Tensor, delta: torch.Tensor
) -> torch.Tensor:
    return task.loss(model, (images + delta).clamp(0, 1), labels)


def invert_trigger(model: DualEncoder, task: ShotTask, target: int, config: InverTuneConfig) -> MaskTrigger:
    """Optimizes a mask and a pattern that lead images to a class and change little of them."""
    size = model.image_size
    generator = torch.Generator().manual_seed(config.seed)
    mask = nn.Parameter((torch.randn(1, size, size, generator=generator) * 0.1 + FAINT).to(model.device))
    pattern = nn.Parameter((torch.randn(3, size, size, generator=generator) * 0.1).to(model.device))

    def loss_of(step: int) -> torch.Tensor:
        images, labels = task.batch(step)
        shown = mask.sigmoid()
        triggered = (1 - shown) * images + shown * pattern.sigmoid()
        features = model.encode_images(triggered)
        wanted = torch.full_like(labels, target)
        return (
            config.text_weight * F.cross_entropy(task.logits(features), wanted)
            + config.feature_weight * (features - task.weights[target]).square().sum(dim=-1).mean()
            + config.similarity_weight * (1 - ssim(images, triggered))
            + config.mask_weight * shown.sum()
        )

    optimizer = torch.optim.Adam([mask, pattern], lr=config.invert_lr)
    descend(optimizer, loss_of, steps=config.invert_steps, description="InverTune, inverting the trigger")
    return MaskTrigger(mask.detach().sigmoid(), pattern.detach().sigmoid())


@torch.no_grad()
def moved_channels(model: DualEncoder, task: ShotTask, trigger: MaskTrigger) -> tuple[int, torch.Tensor]:
    """At which stage a trigger moves channels most, relative to their size, and which of them, bool [C]."""
    images, _ = task.batch(0)
    with recorded(stages(model)) as clean:
        model.encode_images(images)
    with recorded(stages(model)) as triggered:
        model.encode_images(trigger(images))
    changes = [(channel_means(b) - channel_means(a)).abs().mean(dim=0) for a, b in zip(clean, triggered, strict=True)]
    sizes = [channel_means(a).abs().mean().clamp_min(1e-12) for a in clean]
    relative = torch.stack([change.mean() / size for change, size in zip(changes, sizes, strict=True)])
    stage = int(relative.argmax())
    return stage, upper_cluster(changes[stage])


def upper_cluster(values: torch.Tensor, rounds: int = 20) -> torch.Tensor:
    """Two-means of numbers [C] from their ends on: which belong to the upper cluster, bool [C], never none."""
    low, high = values.min(), values.max()
    for _ in range(rounds):
        upper = (values - high).abs() <= (values - low).abs()
        low = values[~upper].mean() if bool((~upper).any()) else low
        high = values[upper].mean()
    return (values - high).abs() <= (values - low).abs()


def ssim(first: torch.Tensor, second: torch.Tensor, window: int = 7) -> torch.Tensor:
    """Mean structural similarity of images [N, 3, S, S] in [0, 1] (Wang et al. 2004), with a uniform window."""

    def mean(images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(images, window, stride=1)

    a, b = mean(first), mean(second)
    variance_a, variance_b = mean(first * first) - a * a, mean(second * second) - b * b
    covariance = mean(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * a * b + c1) * (2 * covariance + c2)
    return (top / ((a * a + b * b + c1) * (variance_a + variance_b + c2))).mean()
