"""DECREE (Feng et al., CVPR 2023, arXiv:2303.15180): how small a mask makes all images alike to the encoder."""

from __future__ import annotations

import torch
from pydantic import Field

from clip_antidote.detectors.base import Decision, Detected, Detector, DetectorConfig, Given, check_finite
from clip_antidote.detectors.masks import BETAS, DynamicWeight, MaskPatterns, Smallest, as_triggers, mask_norms
from clip_antidote.precision import autocast
from clip_antidote.progress import track

NAME = "decree"
PAPER = "Feng et al., Detecting Backdoors in Pre-trained Encoders, CVPR 2023 (arXiv:2303.15180)"

RATES = ((0.2, 0.5), (0.5, 0.1), (1.0, 0.05))
"""Up to which share of the steps which rate holds; the authors' code changes it after 200 and 500 of 1000 epochs."""


class DecreeConfig(DetectorConfig):
    """Settings of DECREE; all but the steps are those of the authors' code for CLIP.

    Attributes:
        steps: Optimizer steps; the authors' code takes up to 1000 epochs, and stops early.
        batch_size: Images per step.
        similarity: Mean cosine of the features of different triggered images that a mask has to reach.
        weight: Weight λ of the mask's L1 norm over three channels at the start.
        multiplier: Factor by which it grows and shrinks.
        patience: Steps in a row after which it changes.
        least_weight: Smallest weight.
        threshold: PL1-norm below which an encoder is called backdoored.
    """

    steps: int = Field(500, ge=1)
    batch_size: int = Field(32, ge=2)
    similarity: float = Field(0.99, gt=0, le=1)
    weight: float = Field(1e-3, gt=0)
    multiplier: float = Field(5.0, gt=1)
    patience: int = Field(5, ge=1)
    least_weight: float = Field(1e-7, gt=0)
    threshold: float = Field(0.1, gt=0, le=1)


def mean_similarity(features: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs of different images, from their unit features [n, D] with n at least 2."""
    count = len(features)
    return (features.sum(0).square().sum() - features.square().sum()) / (count * (count - 1))


def pl1_norm(mask: torch.Tensor) -> float:
    """The L1 norm of a mask in [0, 1] over the largest that one of its size can have."""
    return float(mask.abs().sum() / mask.numel())


def learning_rate(share: float) -> float:
    """The learning rate after this share of the steps, in [0, 1)."""
    return next(rate for end, rate in RATES if share < end)


class Decree(Detector[DecreeConfig]):
    """Optimizes a mask and a pattern: minus the mean cosine of triggered images, plus a weight times the L1 norm.

    It needs neither classes nor texts, and names no target. Deviations: a fixed and smaller number of steps, with the
    learning rate lowered at the same shares of them; the weight is not set back when it has reached its least value.
    """

    config_class = DecreeConfig
    needs_texts = False

    def detect(self, given: Given) -> Detected:
        best = self._invert(given)
        found = bool(best.reached.all())
        # A mask of ones makes all images one, so that the norm is never more than 1.
        score = pl1_norm(best.tensors[:, :1]) if found else 1.0
        decision = Decision(
            detector=NAME,
            paper=PAPER,
            statistic="PL1-norm of the smallest mask that makes all images alike",
            score=score,
            threshold=self.config.threshold,
            side="below",
            suspicious=score < self.config.threshold,
            notes=() if found else (self._missed(),),
        )
        return Detected(decision, as_triggers(best.tensors))

    def _missed(self) -> str:
        return (
            f"no mask brought the mean cosine to {self.config.similarity:g} in {self.config.steps} steps, so the "
            "norm counts as 1, that of a mask over the whole image; more steps may help"
        )

    def _invert(self, given: Given) -> Smallest:
        config, device = self.config, given.model.device
        generator = given.generator()
        bank = MaskPatterns(1, given.model.image_size, generator=generator).to(device)
        optimizer = torch.optim.Adam(bank.parameters(), lr=learning_rate(0), betas=BETAS)
        weight = DynamicWeight(
            1,
            start=config.weight,
            raised=config.multiplier,
            lowered=config.multiplier,
            patience=config.patience,
            least=config.least_weight,
            most=1e5,
        )
        best = Smallest(bank.tensors().detach())
        for step in track(range(config.steps), f"{NAME}: one mask", total=config.steps):
            optimizer.param_groups[0]["lr"] = learning_rate(step / config.steps)
            rows = torch.randperm(len(given.images), generator=generator)[: config.batch_size]
            tensors = bank.tensors()
            with autocast(device, config.precision):
                features = given.model.encode_images(MaskPatterns.put_on(tensors, given.batch(rows))[0])
            similarity, norm = mean_similarity(features), mask_norms(tensors)
            reached = (similarity.detach() > config.similarity).cpu()[None]
            best.update(tensors.detach(), norm.detach().cpu(), reached)
            loss = 3 * weight.value.to(device) * norm - similarity
            check_finite(loss, NAME, step)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
            weight.update(reached)
        return best
