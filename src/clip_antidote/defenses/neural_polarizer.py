"""NPD, the neural polarizer (Zhu et al. 2023, arXiv 2306.16697), behind the image tower."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import map_features
from clip_antidote.prompts.classifier import ZeroShotClassifier


class NPDConfig(ShotsConfig):
    """Settings.

    λ1 to λ3 and the bound are those of the configuration for CIFAR-10 in BackdoorBench, which comes from the authors'
    group; the body of the paper was not checked.

    Attributes:
        clean_weight: λ1, cross-entropy of clean images; 1 there.
        adversarial_weight: λ2, cross-entropy of attacked images; 0.4 there, with the classes that the suspect calls
            the clean ones, here with their labels.
        target_weight: λ3, how much attacked images are kept from the class they were led to; 0.4 there, and once more
            from the wrong class that is the most likely, which is left out here.
        bound: Largest L2 norm of an attack at 32 pixels a side; 3 there; it grows with the side.
        attack_steps: Steps of the attack along the gradient; ours, there at most 2 along its signs.
        lr: Learning rate of Adam; ours, there SGD at 0.01.
        steps: Optimizer steps.
    """

    clean_weight: float = Field(1.0, ge=0)
    adversarial_weight: float = Field(0.4, ge=0)
    target_weight: float = Field(0.4, ge=0)
    bound: float = Field(3.0, gt=0)
    attack_steps: int = Field(5, ge=1)
    lr: float = Field(1e-3, gt=0)
    steps: int = Field(150, ge=1)


class NeuralPolarizer(Defense):
    """Trains one linear map that filters what attacks add, everything else frozen; a bi-level problem.

    Inner: every image is led by a bounded attack to its second most likely class, which stands in for the unknown
    target. Outer: λ1·CE(x, y) + λ2·CE(x + δ, y) + λ3·(−log(1 − p_t(x + δ))). The map stands behind the
    projection of the image tower, where it can be multiplied into it, so the result is a model as any other.
    """

    profile = PROFILES["neural-polarizer"]
    config_class = NPDConfig

    def apply(self, given: Given) -> Outcome:
        config: NPDConfig = self.config
        suspect = given.model
        task = ShotTask(suspect, given.shots, config)
        polarizer = nn.Parameter(torch.eye(task.weights.shape[1], device=suspect.device))

        def polarized(images: torch.Tensor) -> torch.Tensor:
            return task.logits(F.normalize(suspect.raw_image_features(images) @ polarizer.T, dim=-1))

        def loss_of(step: int) -> torch.Tensor:
            images, labels = task.batch(step)
            clean = polarized(images)
            target = clean.detach().scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
            attacked = polarized(self._attack(suspect, task, polarizer.detach(), images, target))
            away = -torch.log1p(-attacked.softmax(-1).gather(1, target[:, None]).clamp(max=1 - 1e-6)).mean()
            return (
                config.clean_weight * F.cross_entropy(clean, labels)
                + config.adversarial_weight * F.cross_entropy(attacked, labels)
                + config.target_weight * away
            )

        with suspect.frozen():
            descend(torch.optim.Adam([polarizer], lr=config.lr), loss_of, steps=config.steps, description="NPD")
        model = copy.deepcopy(suspect)
        map_features(model, polarizer.detach())
        classifier = ZeroShotClassifier(model, task.weights.T.contiguous(), given.shots.classes)
        return Outcome(classifier, polarizer.numel())

    def _attack(
        self,
        model: DualEncoder,
        task: ShotTask,
        polarizer: torch.Tensor,
        images: torch.Tensor,
        target: torch.Tensor,
    ) -> torch.Tensor:
        """Images [B, 3, S, S] led to the classes [B] by a change of bounded L2 norm."""
        config: NPDConfig = self.config
        bound = config.bound * model.image_size / 32
        delta = torch.zeros_like(images)
        for _ in range(config.attack_steps):
            delta.requires_grad_(True)
            features = model.raw_image_features((images + delta).clamp(0, 1)) @ polarizer.T
            loss = F.cross_entropy(task.logits(F.normalize(features, dim=-1)), target, reduction="sum")
            (slope,) = torch.autograd.grad(loss, delta)
            step = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            moved = delta.detach() - (2 * bound / config.attack_steps) * step
            delta = moved * (bound / moved.flatten(1).norm(dim=1).clamp_min(bound)).view(-1, 1, 1, 1)
        return (images + delta.detach()).clamp(0, 1)
