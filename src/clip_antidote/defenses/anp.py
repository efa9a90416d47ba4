"""ANP, adversarial neuron pruning (Wu and Wang 2021, arXiv 2110.14430), on the image tower."""

from __future__ import annotations

import copy

import torch
from pydantic import Field

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.held_out import hold_out
from clip_antidote.defenses.norm_masks import MaskedNorms, PruningConfig, prune_by_masks
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotTask, count, descend
from clip_antidote.prompts.classifier import ZeroShotClassifier


class ANPConfig(PruningConfig):
    """Settings.

    ε, α, learning rate and momentum are the paper's (its experimental setup) and the defaults of the authors'
    release; both take 2000 steps on batches of 128. The threshold of 0.2 is ours: the release tries 0, 0.05, … 0.9.

    Attributes:
        epsilon: Largest relative change ε of a scale or offset by the adversary.
        clean_weight: α, the weight of the loss without the adversary.
        lr: Learning rate of SGD on the masks.
        momentum: Its momentum.
        steps: Optimizer steps.
    """

    epsilon: float = Field(0.4, gt=0)
    clean_weight: float = Field(0.2, ge=0, le=1)
    lr: float = Field(0.2, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    steps: int = Field(200, ge=1)


class ANP(Defense):
    """Finds neurons that a small change of their scale and offset turns against clean images, and prunes them.

    Every normalization layer gets a mask m on its scale and noise δ on scale and offset, all relative:
    min_m α·L(m) + (1−α)·max_{|δ|≤ε} L(m + δ), m in [0, 1]. Channels with a small mask are pruned: their scale
    becomes 0. The adversary takes one signed step of length ε, as in the authors' release; there it starts at uniform
    noise in [-ε, ε], here at 0, so that it stays within ε.
    """

    profile = PROFILES["anp"]
    config_class = ANPConfig

    def apply(self, given: Given) -> Outcome:
        config: ANPConfig = self.config
        kept, held = hold_out(given.shots, seed=config.seed)
        model = copy.deepcopy(given.model)
        task = ShotTask(model, kept, config)
        with model.frozen():
            masked = MaskedNorms(model)
            masks, noises = masked.masks(), masked.noises()

            def loss_of(step: int) -> torch.Tensor:
                images, labels = task.batch(step)
                slopes = torch.autograd.grad(task.loss(model, images, labels), noises)
                with torch.no_grad():
                    for noise, slope in zip(noises, slopes, strict=True):
                        noise.copy_(config.epsilon * slope.sign())
                attacked = task.loss(model, images, labels)
                with torch.no_grad():
                    for noise in noises:
                        noise.zero_()
                return config.clean_weight * task.loss(model, images, labels) + (1 - config.clean_weight) * attacked

            optimizer = torch.optim.SGD(masks, lr=config.lr, momentum=config.momentum)
            descend(optimizer, loss_of, steps=config.steps, description="ANP", after=lambda step: masked.clip())
            found = [mask.detach().clone() for mask in masks]
            masked.remove()
            pruned = prune_by_masks(model, found, task.weights, held, config)
        classifier = ZeroShotClassifier(model, task.weights.T.contiguous(), given.shots.classes)
        return Outcome(classifier, count(found), {"pruned": pruned, "channels": count(found)})
