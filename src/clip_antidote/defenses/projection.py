"""Projection of hijacked directions, where a trusted base model is at hand; ours, from no paper."""

from __future__ import annotations

import copy

import torch
from pydantic import Field

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.held_out import clean_accuracy, hold_out
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, descend
from clip_antidote.inversion.bank import make_bank
from clip_antidote.inversion.families import DummyBank
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import map_features
from clip_antidote.prompts.classifier import ZeroShotClassifier


class ProjectionConfig(ShotsConfig):
    """Settings.

    Attributes:
        sparsities: Weight on the mean of the mask, of one mask probe each.
        bounds: Largest change of a pixel, of one additive probe each.
        steps: Steps on the probes.
        lr: Their learning rate (Adam).
        samples: Batches whose features are compared.
        rank: Directions that are projected out, at most.
        max_drop: Fewer are, where the accuracy on held-out shots would fall by more than this.
    """

    sparsities: tuple[float, ...] = (1.0, 4.0)
    bounds: tuple[float, ...] = (16 / 255, 32 / 255)
    steps: int = Field(100, ge=1)
    lr: float = Field(0.1, gt=0)
    samples: int = Field(4, ge=1)
    rank: int = Field(4, ge=1)
    max_drop: float = Field(0.05, ge=0, le=1)


class HijackedDirections(Defense):
    """Finds where the suspect can be pushed and its base cannot, and takes these directions out of its features.

    Universal probes (patches and additive noise) are optimized to move features of the suspect, and not those of the
    base: maximize |f(T x) − f(x)|² − |f⁰(T x) − f⁰(x)|². The main directions of (f(T x) − f(x)) − (f⁰(T x) − f⁰(x))
    are the hijacked ones, U; image features become (I − U·Uᵀ)·f, multiplied into the last projection.
    """

    profile = PROFILES["projection"]
    config_class = ProjectionConfig

    def apply(self, given: Given) -> Outcome:
        config: ProjectionConfig = self.config
        suspect, base = given.model, given.base
        assert base is not None
        kept, held = hold_out(given.shots, seed=config.seed)
        task = ShotTask(suspect, kept, config)
        with suspect.frozen(), base.frozen():
            banks = [
                make_bank(family, strengths, suspect.image_size, config.seed).to(suspect.device)
                for family, strengths in (("mask", config.sparsities), ("additive", config.bounds))
                if strengths
            ]
            for bank in banks:
                self._probe(suspect, base, task, bank)
            directions = self._directions(suspect, base, task, banks)
            model, rank = self._project(suspect, directions, task.weights, held)
        classifier = ZeroShotClassifier(model, task.weights.T.contiguous(), given.shots.classes)
        return Outcome(classifier, 0, {"directions": rank})

    def _probe(self, suspect: DualEncoder, base: DualEncoder, task: ShotTask, bank: DummyBank) -> None:
        """Optimizes probes in place."""

        def loss_of(step: int) -> torch.Tensor:
            images, _ = task.batch(step)
            own, trusted = self._shifts(suspect, images, bank), self._shifts(base, images, bank)
            gain = own.square().sum(-1).mean(dim=1) - trusted.square().sum(-1).mean(dim=1)
            return (bank.penalty() - gain).sum()

        optimizer = torch.optim.Adam(bank.parameters(), lr=self.config.lr)
        description = f"probing for hijacked directions ({bank.name})"
        descend(optimizer, loss_of, steps=self.config.steps, description=description)

    @staticmethod
    def _shifts(model: DualEncoder, images: torch.Tensor, bank: DummyBank) -> torch.Tensor:
        """What the probes do to unit features, [H, B, D]."""
        probed = bank.apply_all(images.expand(len(bank), *images.shape))
        with torch.no_grad():
            clean = model.encode_images(images)
        return model.encode_images(probed.flatten(0, 1)).view(len(bank), len(images), -1) - clean

    @torch.no_grad()
    def _directions(
        self, suspect: DualEncoder, base: DualEncoder, task: ShotTask, banks: list[DummyBank]
    ) -> torch.Tensor:
        """The main directions of what the probes do to the suspect beyond the base, unit rows [rank, D]."""
        rows = []
        for step in range(self.config.samples):
            images, _ = task.batch(self.config.steps + step)
            for bank in banks:
                rows.append((self._shifts(suspect, images, bank) - self._shifts(base, images, bank)).flatten(0, 1))
        return torch.linalg.svd(torch.cat(rows), full_matrices=False)[2][: self.config.rank]

    def _project(
        self, suspect: DualEncoder, directions: torch.Tensor, weights: torch.Tensor, held: LabelledImages
    ) -> tuple[DualEncoder, int]:
        """Takes out as many directions as the held-out accuracy allows."""
        least = clean_accuracy(ZeroShotClassifier(suspect, weights.T.contiguous(), held.classes), held)
        least -= self.config.max_drop
        best = copy.deepcopy(suspect)
        for rank in range(1, len(directions) + 1):
            chosen = directions[:rank]
            model = copy.deepcopy(suspect)
            map_features(model, torch.eye(chosen.shape[1]).to(chosen) - chosen.T @ chosen)
            if clean_accuracy(ZeroShotClassifier(model, weights.T.contiguous(), held.classes), held) < least:
                return best, rank - 1
            best = model
        return best, len(directions)
