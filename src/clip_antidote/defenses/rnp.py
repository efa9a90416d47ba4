"""RNP, reconstructive neuron pruning (Li et al. 2023, arXiv 2305.14876), on the image tower."""

from __future__ import annotations

import copy

import torch
from pydantic import Field

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.held_out import hold_out
from clip_antidote.defenses.norm_masks import MaskedNorms, PruningConfig, prune_by_masks
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotTask, count, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import image_parameters
from clip_antidote.prompts.classifier import ZeroShotClassifier


class RNPConfig(PruningConfig):
    """Settings.

    Rates and momentum are the defaults of the authors' release. It ends unlearning where an epoch's accuracy is 0.2
    (ten classes), weighs the loss of recovering by 0.2 and decays weights by 5e-4 while unlearning; 0.1 of a batch, a
    weight of 1 and no decay are ours. The body of the paper was not checked.

    Attributes:
        unlearn_lr: Learning rate of SGD while unlearning.
        unlearn_steps: Steps of unlearning, at most.
        forgotten: Accuracy of a batch at which unlearning ends.
        recover_lr: Learning rate of SGD on the masks.
        recover_steps: Steps of recovering.
        momentum: Momentum of both.
        clip: Largest norm of the gradient while unlearning; 20 as in the release, where it is applied before the
            gradients are there, so that it has no effect.
    """

    unlearn_lr: float = Field(0.01, gt=0)
    unlearn_steps: int = Field(60, ge=1)
    forgotten: float = Field(0.1, ge=0, le=1)
    recover_lr: float = Field(0.2, gt=0)
    recover_steps: int = Field(100, ge=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    clip: float = Field(20.0, gt=0)


class RNP(Defense):
    """Unlearns clean images until only the backdoor is left, sees which filters bring them back, prunes the rest.

    First the loss on clean images is driven up through all weights of the image tower; then masks on the scales of
    the normalization layers are trained on the same images in the unlearned network. A channel whose mask falls does
    not serve clean images: it is pruned in the suspect.
    """

    profile = PROFILES["rnp"]
    config_class = RNPConfig

    def apply(self, given: Given) -> Outcome:
        config: RNPConfig = self.config
        kept, held = hold_out(given.shots, seed=config.seed)
        task = ShotTask(given.model, kept, config)
        unlearned = copy.deepcopy(given.model)
        with unlearned.evaluating():
            steps = self._unlearn(unlearned, task)
            masks = self._recover(unlearned, task)
        model = copy.deepcopy(given.model)
        with model.frozen():
            pruned = prune_by_masks(model, masks, task.weights, held, config)
        classifier = ZeroShotClassifier(model, task.weights.T.contiguous(), given.shots.classes)
        trained = count(image_parameters(model)) + count(masks)
        return Outcome(classifier, trained, {"pruned": pruned, "channels": count(masks), "unlearned_in": steps})

    def _unlearn(self, model: DualEncoder, task: ShotTask) -> int:
        """Drives the loss on clean images up until a batch is hardly recognized; says after how many steps."""
        config: RNPConfig = self.config
        model.requires_grad_(False)
        parameters = [parameter.requires_grad_(True) for parameter in image_parameters(model)]
        optimizer = torch.optim.SGD(parameters, lr=config.unlearn_lr, momentum=config.momentum, maximize=True)
        right = [1.0]

        def loss_of(step: int) -> torch.Tensor:
            images, labels = task.batch(step)
            logits = task.logits(model.encode_images(images))
            right[0] = float((logits.argmax(-1) == labels).float().mean())
            return torch.nn.functional.cross_entropy(logits, labels)

        losses = descend(
            optimizer,
            loss_of,
            steps=config.unlearn_steps,
            description="RNP, unlearning",
            clip=config.clip,
            after=lambda step: right[0] <= config.forgotten,
        )
        model.requires_grad_(False)
        return len(losses)

    def _recover(self, model: DualEncoder, task: ShotTask) -> list[torch.Tensor]:
        """Trains masks on the unlearned model and returns them, a vector for every normalization layer."""
        config: RNPConfig = self.config
        masked = MaskedNorms(model)
        optimizer = torch.optim.SGD(masked.masks(), lr=config.recover_lr, momentum=config.momentum)
        offset = config.unlearn_steps
        descend(
            optimizer,
            lambda step: task.loss(model, *task.batch(offset + step)),
            steps=config.recover_steps,
            description="RNP, recovering",
            after=lambda step: masked.clip(),
        )
        return [mask.detach().clone() for mask in masked.masks()]
