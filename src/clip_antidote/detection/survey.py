"""What is measured of every class of a suspect: its text, its clean images, and how easily a trigger leads to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clip_antidote.detection.forms import measure_forms
from clip_antidote.detection.probes import measure_probes
from clip_antidote.inversion.alignment import alignment, best_similarity, closest_similarity
from clip_antidote.inversion.config import SurveyConfig
from clip_antidote.inversion.views import Observation

RIDGE = 1e-3
"""Keeps the span of the clean images from taking in what is only noise, as share of the mean squared length."""


@dataclass(frozen=True)
class Survey:
    """Statistics of all classes, each [C]; what they mean, and which way is suspicious, stands in `STATISTICS`.

    Attributes:
        values: By name.
        shots: Images per class behind them.
    """

    values: dict[str, torch.Tensor]
    shots: float


def survey_classes(seen: Observation, config: SurveyConfig, *, seed: int) -> Survey:
    """Measures every class.

    Args:
        seen: The suspect and its views.
        config: Settings.
        seed: Seed of triggers, batches and random probes.
    """
    rows = sample_views(seen, config.sample, seed=seed)
    values = measure_texts(seen)
    values |= measure_probes(seen, config, rows, seed=seed)
    values |= measure_forms(seen, config, rows, seed=seed)
    return Survey(values, seen.shots_per_class)


def measure_texts(seen: Observation) -> dict[str, torch.Tensor]:
    """Measures the text of every class against clean images; no trigger is needed for it."""
    pool, weights = seen.pool, seen.weights
    count = len(weights)
    similarity = pool.features @ weights.T
    called = similarity.argmax(1)
    own = F.one_hot(pool.labels, count).bool()
    images = own.sum(0)
    centroids = seen.centroids()
    centered = F.normalize(weights - weights.mean(0), dim=-1) @ F.normalize(centroids - centroids.mean(0), dim=-1).T
    others = centered.masked_fill(torch.eye(count, dtype=torch.bool), -1)
    texts = (weights @ weights.T).fill_diagonal_(-1)
    return {
        "alignment": alignment(weights, centroids),
        "own": best_similarity(pool.features, pool.labels, weights),
        "any": closest_similarity(pool.features, weights),
        "confusion": others.max(1).values,
        "residual": outside_span(weights, pool.features),
        "recall": (own & F.one_hot(called, count).bool()).sum(0) / images,
        "attracted": (~own & F.one_hot(called, count).bool()).sum(0) / (len(pool) - images),
        "neighbor": texts.max(1).values,
        "mean_similarity": (similarity * ~own).sum(0) / (len(pool) - images),
    }


def outside_span(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """How much of each text lies where no clean image has anything: squared length outside of their span.

    The span is soft: a direction counts as far as the images' spread along it exceeds `RIDGE`.

    Args:
        weights: Unit class weights [C, D].
        features: Unit features of clean images [V, D].

    Returns:
        [C] in [0, 1].
    """
    centered = features - features.mean(0)
    directions = weights - features.mean(0)
    scatter = centered.T @ centered / len(features)
    ridge = RIDGE * scatter.diagonal().mean() * len(scatter)
    solved = torch.linalg.solve(scatter + ridge * torch.eye(len(scatter)), directions.T)
    length = directions.square().sum(1)
    return ridge * (directions.T * solved).sum(0) / length


def sample_views(seen: Observation, count: int, *, seed: int) -> torch.Tensor:
    """Draws the views [count] on which all classes are measured."""
    return torch.randperm(len(seen.pool), generator=torch.Generator().manual_seed(seed))[:count]
