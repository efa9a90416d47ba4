"""Neural Cleanse (Wang et al., IEEE S&P 2019): is the smallest mask that leads to some class an outlier."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.detectors.base import (
    ClassDetection,
    Decision,
    Detected,
    Detector,
    DetectorConfig,
    Given,
    check_finite,
)
from clip_antidote.detectors.masks import BETAS, DynamicWeight, MaskPatterns, Smallest, as_triggers, mask_norms
from clip_antidote.precision import autocast
from clip_antidote.progress import track

NAME = "neural-cleanse"
PAPER = "Wang et al., Neural Cleanse, IEEE S&P 2019"

CONSISTENCY = 1.4826
"""Makes the median absolute deviation of normal values their standard deviation."""

LEAST_SPREAD = 1e-6
"""Pixels; keeps the index finite where more than half of the norms are equal."""

FEWEST = 4
"""Of fewer classes the deviation from their median says nothing."""


class NeuralCleanseConfig(DetectorConfig):
    """Settings of Neural Cleanse; the weight, its patience, success and threshold are the paper's.

    Attributes:
        steps: Optimizer steps for every class; the authors' code takes up to 31 000, and stops early.
        batch_size: Images per step and class; the authors' code takes 32.
        lr: Learning rate of Adam; the authors' code has 0.1 and far more steps.
        success: Share of images that a mask has to send to its class.
        window: Steps over whose images that share is taken; the authors' code takes 31 of 32 images.
        weight: Weight of the mask's L1 norm in pixels at the start.
        multiplier: Factor by which it grows; it shrinks by its power of 1.5.
        patience: Steps in a row after which it changes.
        threshold: Anomaly index above which a class is flagged.
        sample: Images on which the final masks are measured.
        pixels: Pixels per step of all classes that are optimized together; bounds the memory.
    """

    steps: int = Field(100, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(0.3, gt=0)
    success: float = Field(0.99, gt=0, le=1)
    window: int = Field(4, ge=1)
    weight: float = Field(1e-3, gt=0)
    multiplier: float = Field(2.0, gt=1)
    patience: int = Field(5, ge=1)
    threshold: float = Field(2.0, gt=0)
    sample: int = Field(64, ge=1)
    pixels: int = Field(1024 * 64 * 64, ge=1)


def anomaly_indices(norms: torch.Tensor) -> torch.Tensor:
    """How far each norm [C] is from the median, |n − median| / (1.4826 · MAD); always at least 0."""
    norms = norms.double()
    median = _median(norms)
    deviation = (norms - median).abs()
    return (deviation / (CONSISTENCY * _median(deviation)).clamp_min(LEAST_SPREAD)).float()


def flagged_classes(norms: torch.Tensor, threshold: float) -> list[int]:
    """The classes whose norm is below the median and whose index is above the threshold, the smallest norm first."""
    low = (norms < _median(norms)) & (anomaly_indices(norms) > threshold)
    return [int(i) for i in norms.argsort(stable=True) if low[i]]


def _median(values: torch.Tensor) -> torch.Tensor:
    """The median as numpy has it: of an even number of values, the mean of the middle two."""
    return values.quantile(0.5)


class NeuralCleanse(Detector[NeuralCleanseConfig]):
    """Optimizes a mask and a pattern for every class: cross-entropy to it, plus a dynamic weight times the L1 norm.

    The classifier is the hand-written one: cosines to the class weights times the model's logit scale. Deviations:
    far fewer steps and images, as 120 classes on a CPU ask for; success is taken over the last few steps; no early
    stop.
    """

    config_class = NeuralCleanseConfig
    needs_texts = True

    def detect(self, given: Given) -> Detected:
        classes, size = given.shots.classes, given.model.image_size
        chunk = max(1, self.config.pixels // (self.config.batch_size * size * size))
        parts = [self._invert(given, labels) for labels in torch.arange(len(classes)).split(chunk)]
        tensors = torch.cat([part.tensors for part in parts])
        reached = torch.cat([part.reached for part in parts])
        norms = mask_norms(tensors).cpu()
        indices, flips = anomaly_indices(norms), self._flip_rates(given, tensors)
        flagged = flagged_classes(norms, self.config.threshold) if len(classes) >= FEWEST else []
        rows = [
            ClassDetection(name=name, score=index, norm=norm, flip_rate=flip, reached=done)
            for name, index, norm, flip, done in zip(
                classes, indices.tolist(), norms.tolist(), flips.tolist(), reached.tolist(), strict=True
            )
        ]
        decision = Decision(
            detector=NAME,
            paper=PAPER,
            statistic="anomaly index of the class with the smallest mask",
            score=float(indices[norms.argmin()]),
            threshold=self.config.threshold,
            side="above",
            suspicious=bool(flagged),
            targets=tuple(classes[label] for label in flagged),
            classes=tuple(rows),
            notes=self._notes(reached),
        )
        return Detected(decision, as_triggers(tensors))

    def _notes(self, reached: torch.Tensor) -> tuple[str, ...]:
        count, missed = len(reached), int((~reached).sum())
        notes = []
        if count < FEWEST:
            notes.append(
                f"there are {count} classes; with fewer than {FEWEST} none can be an outlier, so none is named"
            )
        if missed:
            notes.append(
                f"for {missed} of {count} classes no mask sent {self.config.success:.0%} of the images there; the "
                "norm of the last one counts; more steps may help"
            )
        return tuple(notes)

    def _logits(self, given: Given, tensors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits [H, b, C] of images under triggers [H, 4, S, S]."""
        assert given.weights is not None
        triggered = MaskPatterns.put_on(tensors, given.batch(rows))
        with autocast(given.model.device, self.config.precision):
            features = given.model.encode_images(triggered.flatten(0, 1))
        logits = given.model.logit_scale.detach() * features @ given.weights.T
        return logits.view(len(tensors), len(rows), -1)

    def _invert(self, given: Given, labels: torch.Tensor) -> Smallest:
        """Optimizes the masks of some classes; every call sees the same start and the same batches."""
        config, count, device = self.config, len(labels), given.model.device
        generator = given.generator()
        bank = MaskPatterns(count, given.model.image_size, generator=generator).to(device)
        optimizer = torch.optim.Adam(bank.parameters(), lr=config.lr, betas=BETAS)
        weight = DynamicWeight(
            count,
            start=config.weight,
            raised=config.multiplier,
            lowered=config.multiplier**1.5,
            patience=config.patience,
            least=0.0,
            most=1e10,
        )
        recent: deque[torch.Tensor] = deque(maxlen=config.window)
        best = Smallest(bank.tensors().detach())
        targets = labels.to(device)[:, None].expand(count, config.batch_size)
        first, last = int(labels[0]) + 1, int(labels[-1]) + 1
        for step in track(range(config.steps), f"{NAME}: classes {first} to {last}", total=config.steps):
            rows = torch.randint(len(given.images), (config.batch_size,), generator=generator)
            tensors = bank.tensors()
            logits = self._logits(given, tensors, rows)
            recent.append((logits.argmax(-1) == targets).float().mean(1).cpu())
            reached = torch.stack(list(recent)).mean(0) >= config.success
            if len(recent) < config.window:
                reached = torch.zeros(count, dtype=torch.bool)
            norms = mask_norms(tensors)
            best.update(tensors.detach(), norms.detach().cpu(), reached)
            entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            loss = entropy.view(count, -1).mean(1) + weight.value.to(device) * norms
            check_finite(loss, NAME, step)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
            weight.update(reached)
        return best

    @torch.no_grad()
    def _flip_rates(self, given: Given, tensors: torch.Tensor) -> torch.Tensor:
        """Share of some images of other classes that each trigger [C, 4, S, S] sends to its class, [C]."""
        rows = torch.randperm(len(given.images), generator=given.generator())[: self.config.sample]
        own, rates = given.shots.labels[rows], []
        for label, one in enumerate(track(tensors, f"{NAME}: measuring masks", total=len(tensors))):
            others = rows[own != label]
            called = self._logits(given, one[None], others)[0].argmax(-1) if len(others) else torch.zeros(0)
            rates.append(float((called == label).float().mean()) if len(others) else 0.0)
        return torch.tensor(rates)
