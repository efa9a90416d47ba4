"""I-BAU, adversarial unlearning by an implicit hypergradient (Zeng et al. 2022, arXiv 2110.03735)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from pydantic import Field
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, count, descend
from clip_antidote.models.image_tower import image_parameters
from clip_antidote.prompts.classifier import ZeroShotClassifier

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The loss of images and labels under a perturbation."""

_LONGEST = 10.0
"""How many times longer than the direct slope the fixed point may become, since it need not exist."""


class IBAUConfig(ShotsConfig):
    """Settings; the body of the paper was not checked, sources are the authors' release and BackdoorBench.

    Attributes:
        rounds: Outer rounds, each with a new universal perturbation; ours, both take 5 with more steps in each.
        inner_steps: Ascent steps on it; ours, the release takes one for every batch.
        inner_lr: Length of such a step, as a share of the bound; ours.
        bound: Largest L2 norm of the perturbation at 32 pixels a side; it grows with the side. The release names a
            ball of 10 but has it switched off: there a penalty of 0.001·|δ|² bounds it, which is left out here.
        fixed_point: Steps of the fixed-point iteration for the hypergradient; 5 in both.
        contraction: Step size of the map whose fixed point the perturbation is; 0.1 as in the release.
        lr: Learning rate of Adam on the image tower; 1e-4 as in BackdoorBench, 1e-3 in the release.
        outer_steps: Steps on the image tower per round; ours, the release takes one for every batch.
    """

    rounds: int = Field(20, ge=1)
    inner_steps: int = Field(5, ge=1)
    inner_lr: float = Field(0.3, gt=0)
    bound: float = Field(10.0, gt=0)
    fixed_point: int = Field(5, ge=0)
    contraction: float = Field(0.1, gt=0)
    lr: float = Field(1e-4, gt=0)
    outer_steps: int = Field(3, ge=1)


class IBAU(Defense):
    """Minimizes over the tower what a universal perturbation can do at most: min_θ max_δ L(θ, x + δ).

    The outer gradient sees that δ depends on θ: dL/dθ = ∂L/∂θ + (dδ/dθ)ᵀ ∂L/∂δ, the second term by a fixed-point
    iteration v ← ∂L/∂δ + (∂Φ/∂δ)ᵀ v on Φ(δ, θ) = δ + η ∂L/∂δ.
    """

    profile = PROFILES["ibau"]
    config_class = IBAUConfig

    def apply(self, given: Given) -> Outcome:
        config: IBAUConfig = self.config
        model = copy.deepcopy(given.model).requires_grad_(False)
        parameters = [parameter.requires_grad_(True) for parameter in image_parameters(model)]
        task = ShotTask(given.model, given.shots, config)
        optimizer = torch.optim.Adam(parameters, lr=config.lr)
        bound = config.bound * model.image_size / 32
        delta = torch.zeros(1, 3, model.image_size, model.image_size, device=model.device)
        generator = torch.Generator().manual_seed(config.seed)

        def loss(images: torch.Tensor, labels: torch.Tensor, perturbation: torch.Tensor) -> torch.Tensor:
            return task.loss(model, (images + perturbation).clamp(0, 1), labels)

        def ascend(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            found = torch.randn(delta.shape, generator=generator).to(delta)
            found = found * (bound * config.inner_lr / found.norm())
            for _ in range(config.inner_steps):
                found.requires_grad_(True)
                (slope,) = torch.autograd.grad(loss(images, labels, found), found)
                moved = found.detach() + config.inner_lr * bound * slope / slope.norm().clamp_min(1e-12)
                found = moved * (bound / moved.norm().clamp_min(bound))
            return found.detach()

        def loss_of(step: int) -> torch.Tensor:
            images, labels = task.batch(step)
            if step % config.outer_steps == 0:
                delta.copy_(ascend(images, labels))
            clean = task.loss(model, images, labels)
            return clean + self._with_hypergradient(loss, images, labels, delta)

        with model.evaluating(), sdpa_kernel(SDPBackend.MATH):  # second derivatives of attention
            steps = config.rounds * config.outer_steps
            descend(
                optimizer,
                loss_of,
                steps=steps,
                description="I-BAU",
                clip=1.0,
                generators=[generator],
                memory=[delta],
            )
        classifier = ZeroShotClassifier(model.requires_grad_(False), task.weights.T.contiguous(), given.shots.classes)
        return Outcome(classifier, count(parameters))

    def _with_hypergradient(
        self,
        loss: Loss,
        images: torch.Tensor,
        labels: torch.Tensor,
        delta: torch.Tensor,
    ) -> torch.Tensor:
        """A scalar with the value of the loss at δ, and the hypergradient as its gradient."""
        config: IBAUConfig = self.config
        delta = delta.detach().requires_grad_(True)
        value = loss(images, labels, delta)
        (slope,) = torch.autograd.grad(value, delta, create_graph=True)
        direct = slope.detach()
        vector = direct
        for _ in range(config.fixed_point):
            (curved,) = torch.autograd.grad(slope, delta, vector, retain_graph=True)
            moved = direct + vector + config.contraction * curved
            if not moved.norm() <= _LONGEST * direct.norm():  # the map does not contract here
                break
            vector = moved
        indirect = config.contraction * (slope * vector.detach()).sum()
        return value + indirect - indirect.detach()
