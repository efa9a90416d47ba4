"""Stage 1 as a whole: which class is the target, and dummy triggers for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from clip_antidote.inversion.alignment import alignment, best_similarity, class_centroids
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.evidence import combine_z, evidence, outlier_z
from clip_antidote.inversion.families import AdditiveBank, DummyBank, MaskBank
from clip_antidote.inversion.invert import InversionStats, Inverter
from clip_antidote.inversion.views import ViewPool
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers.base import Trigger

CALIBRATED = 16
"""Shots per class with which the thresholds of the evidence were set."""


@dataclass(frozen=True)
class Dummy:
    """A dummy trigger and how well it does on clean views.

    Attributes:
        trigger: The trigger.
        family: Name of its family.
        target: Class index of its hypothesis.
        flip_rate: Share of views of other classes it sends to the target.
        size: Mean of the mask, or mean absolute change, in [0, 1].
    """

    trigger: Trigger
    family: str
    target: int
    flip_rate: float
    size: float


@dataclass(frozen=True)
class ClassScore:
    """The evidence against one class.

    Attributes:
        label: Class index.
        alignment: Outlier score of the disagreement of its text and its images, see `outlier_z`.
        inversion: Outlier score of the ease of inversion, None where it was not tried.
        score: The disagreement as evidence, −log10 of what chance would do; for classes that lead in it or come
            near, that of the inversion is added. Compared with the threshold.
    """

    label: int
    alignment: float
    inversion: float | None
    score: float


@dataclass(frozen=True)
class SearchResult:
    """What stage 1 found.

    Attributes:
        targets: The suspected targets, the most suspicious first; empty where nothing stands out.
        dummies: Dummy triggers of the suspected targets; empty where there is none.
        scores: The evidence, highest score first.
    """

    targets: tuple[int, ...]
    dummies: list[Dummy] = field(default_factory=list)
    scores: list[ClassScore] = field(default_factory=list)


def make_bank(family: str, strengths: Sequence[float], image_size: int, seed: int) -> DummyBank:
    """Makes fresh dummy triggers of a family ("mask": sparsities, "additive": bounds)."""
    generator = torch.Generator().manual_seed(seed)
    bank_class = MaskBank if family == "mask" else AdditiveBank
    return bank_class(strengths, image_size, generator=generator)


class TargetSearch:
    """Looks for the target class, without knowing trigger or target.

    Args:
        model: Frozen model.
        weights: Hand-written class weights [C, D].
        pool: Clean views of the shots.
        config: Settings.
        seed: Seed of triggers and batches.
    """

    def __init__(
        self,
        model: DualEncoder,
        weights: torch.Tensor,
        pool: ViewPool,
        config: InversionConfig,
        *,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.weights = weights
        self.pool = pool
        self.config = config
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.inverter = Inverter(model, weights, pool, config, generator=generator)
        self.sample = torch.randperm(len(pool), generator=generator)[:128]

    def screen(self, hypotheses: torch.Tensor) -> dict[str, InversionStats]:
        """Inverts one trigger per hypothesis for a few steps, per family."""
        out: dict[str, InversionStats] = {}
        for family in self.config.families:
            strength = self.config.screen_sparsity if family == "mask" else self.config.screen_bound
            bank = make_bank(family, [strength] * len(hypotheses), self.model.image_size, self.seed)
            steps = self.config.screen_steps
            self.inverter.run(bank, hypotheses, steps=steps, description=f"screening targets ({family})")
            out[family] = self.inverter.stats(bank, hypotheses, rows=self.sample)
        return out

    def final_bank(self, target: int) -> list[Dummy]:
        """Inverts the bank of dummy triggers of one target, every strength of every family."""
        dummies = []
        for family in self.config.families:
            strengths = self.config.sparsities if family == "mask" else self.config.bounds
            bank = make_bank(family, strengths, self.model.image_size, self.seed)
            hypotheses = torch.full((len(bank),), target)
            steps = self.config.final_steps
            self.inverter.run(bank, hypotheses, steps=steps, description=f"inverting triggers ({family})")
            stats = self.inverter.stats(bank, hypotheses, rows=self.sample)
            dummies += [
                Dummy(bank.trigger(i), family, target, float(stats.flip_rate[i]), float(stats.size[i]))
                for i in range(len(bank))
            ]
        return dummies

    def find(self) -> SearchResult:
        """Runs stage 1: shortlist by disagreement, screen by inversion, a bank for every class that stands out.

        Two targets hide each other by widening the spread, so what was found is taken out and the rest is
        compared again, until nothing stands out.
        """
        weights = self.weights.cpu()
        centroids = class_centroids(self.pool.features, self.pool.labels, len(weights))
        features, labels = self.pool.features, self.pool.labels
        agreement = torch.stack([alignment(weights, centroids), best_similarity(features, labels, weights)])
        suspicion = combine_z([outlier_z(row) for row in agreement])
        shortlist = suspicion.topk(min(self.config.shortlist, len(suspicion))).indices
        # The objective is positive and skewed: "half of what the others need" counts, not "0.3 less".
        objectives = torch.stack([stats.objective.log() for stats in self.screen(shortlist).values()])
        shots = len(self.pool.shots.unique()) / len(weights)
        found: list[ClassScore] = []
        while True:
            taken = torch.tensor([entry.label for entry in found], dtype=torch.long)
            scores = _judge(agreement, shortlist, objectives, taken, shots=shots)
            needed = self.config.further_threshold if found else self.config.score_threshold
            if not scores or scores[0].score < needed or len(found) == self.config.max_targets:
                break
            found.append(scores[0])
        dummies = [dummy for entry in found for dummy in self.final_bank(entry.label)]
        return SearchResult(tuple(entry.label for entry in found), dummies, [*found, *scores])


def reliability(shots: float) -> tuple[float, float]:
    """How far the disagreement of a class, seen on a few of its images, is to be believed.

    The mean of K images has the variance of the class and 1/K of that of an image, about 1.5 times as large: a single
    odd image sets its class apart. So outlier scores shrink by √(K/(K + 1.5)), and classes count as near the
    leader within a tenth of its score, times √(16/K). Both are 1 at 16 shots, with which the thresholds were set.

    Args:
        shots: Images per class K.

    Returns:
        The factor of the scores, and the share of the leader's score from which on a class is near it.
    """
    shots = min(shots, CALIBRATED)
    shrink = math.sqrt(shots / (shots + 1.5) * (CALIBRATED + 1.5) / CALIBRATED)
    return shrink, 1 - 0.1 * math.sqrt(CALIBRATED / shots)


def _judge(
    agreement: torch.Tensor,
    shortlist: torch.Tensor,
    objectives: torch.Tensor,
    taken: torch.Tensor,
    *,
    shots: float = CALIBRATED,
) -> list[ClassScore]:
    """Scores the shortlist, highest first, against all classes that are not taken.

    Args:
        agreement: How well text and images of all classes agree, by two measures [2, C].
        shortlist: Class indices [H].
        objectives: Log objective of the shortlist, per family [F, H].
        taken: Class indices that are left out.
        shots: Images per class behind `agreement`.
    """
    shrink, near = reliability(shots)
    kept = ~torch.isin(torch.arange(agreement.shape[1]), taken)
    misaligned = torch.full((len(kept),), -torch.inf)
    misaligned[kept] = shrink * combine_z([outlier_z(row[kept]) for row in agreement])
    open_ = kept[shortlist]
    rows = shortlist[open_]
    if not len(rows):
        return []
    ease = combine_z([outlier_z(row[open_]) for row in objectives])
    # Some classes attract triggers in clean models too, so ease alone convicts nobody: it counts only for
    # classes whose text and images disagree about as much as those of the leader.
    leads = misaligned[rows] >= near * misaligned[rows].max()
    combined = evidence(misaligned[rows], int(kept.sum())) + leads * evidence(ease, len(rows))
    scores = [
        ClassScore(int(label), float(misaligned[label]), float(inv), float(score))
        for label, inv, score in zip(rows, ease, combined, strict=True)
    ]
    return sorted(scores, key=lambda entry: -entry.score)
