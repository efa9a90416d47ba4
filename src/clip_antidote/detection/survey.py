"""What is measured of every class of a suspect: its text, its clean images, and how easily a trigger leads to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clip_antidote.detection.probes import measure_probes
from clip_antidote.detection.statistics import outlier_scores
from clip_antidote.inversion.alignment import alignment, best_similarity, closest_similarity
from clip_antidote.inversion.bank import make_bank
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.families import DummyBank
from clip_antidote.inversion.invert import InversionStats, Inverter
from clip_antidote.inversion.views import Observation

LEADING = (
    "alignment", "own", "any", "mask_objective", "mask_flips", "additive_objective", "additive_flips",
)  # fmt: skip
"""Statistics that choose who gets the second pass."""

CAP = 4.0
"""Outlier scores count up to this there, so that none of them decides alone."""

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


def survey_classes(
    seen: Observation, config: InversionConfig, *, seed: int, inverter: type[Inverter] = Inverter
) -> Survey:
    """Measures every class.

    Args:
        seen: The suspect and its views.
        config: Settings: those of the survey, families, strengths, temperature.
        seed: Seed of triggers and batches.
        inverter: How triggers are optimized.
    """
    values = measure_texts(seen)
    values |= measure_probes(seen, config.survey, sample_views(seen, config.survey.sample, seed=seed), seed=seed)
    for family in config.families:
        measured = first_pass(seen, family, config, seed=seed, inverter=inverter)
        values |= {f"{family}_{name}": value for name, value in measured.items()}
    shortlist = choose_shortlist(values, config.survey.shortlist)
    for family in config.families:
        values[f"{family}_second"] = second_pass(seen, family, shortlist, config, seed=seed, inverter=inverter)
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


def first_pass(
    seen: Observation, family: str, config: InversionConfig, *, seed: int, inverter: type[Inverter] = Inverter
) -> dict[str, torch.Tensor]:
    """Inverts a trigger for every class for a few steps, and measures it; the triggers are not kept.

    All start from the same noise and see the same images at the same step, so that differences are the classes'.

    Returns:
        Statistics [C] by name.
    """
    survey = config.survey
    settings = config.model_copy(update={"lr": survey.lr, "batch_size": survey.batch_size})
    count, size = len(seen.weights), seen.model.image_size
    chunk = max(1, survey.pixels // (survey.batch_size * size * size))
    strength = config.survey_sparsity if family == "mask" else config.survey_bound
    rows = sample_views(seen, survey.sample, seed=seed)
    parts = []
    for number, hypotheses in enumerate(torch.arange(count).split(chunk)):
        engine = inverter(seen, settings, generator=torch.Generator().manual_seed(seed))
        bank = equal_bank(family, strength, len(hypotheses), size, seed)
        last = number * chunk + len(hypotheses)
        done = f", {number * chunk + 1} to {last} of {count}" if chunk < count else ""
        engine.run(bank, hypotheses, steps=survey.steps, description=f"surveying classes ({family}{done})")
        parts.append(engine.stats(bank, hypotheses, rows=rows))
    return _joined(parts)


def choose_shortlist(values: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
    """Chooses the classes [H] with the largest sum of outlier scores of what leads for one kind of target or another.

    Args:
        values: Statistics [C] by name.
        count: How many; of few classes at most half, for there have to be others.
    """
    scores = outlier_scores(values)
    total = torch.stack([scores[name].clamp(0, CAP) for name in LEADING if name in scores]).sum(0)
    return total.topk(min(count, max(1, len(total) // 2))).indices


def second_pass(
    seen: Observation,
    family: str,
    shortlist: torch.Tensor,
    config: InversionConfig,
    *,
    seed: int,
    inverter: type[Inverter] = Inverter,
) -> torch.Tensor:
    """Inverts a trigger for the classes of the shortlist under a stricter limit, for longer.

    Returns:
        The objective [C], NaN for the others.
    """
    survey = config.survey
    settings = config.model_copy(update={"lr": survey.second_lr, "batch_size": survey.second_batch})
    engine = inverter(seen, settings, generator=torch.Generator().manual_seed(seed))
    strength = survey.second_sparsity if family == "mask" else survey.second_bound
    bank = equal_bank(family, strength, len(shortlist), engine.image_size, seed)
    engine.run(bank, shortlist, steps=survey.second_steps, description=f"second pass ({family})")
    rows = sample_views(seen, 2 * survey.sample, seed=seed)
    out = torch.full((len(seen.weights),), torch.nan)
    out[shortlist] = engine.stats(bank, shortlist, rows=rows).objective
    return out


def equal_bank(family: str, strength: float, count: int, image_size: int, seed: int) -> DummyBank:
    """Makes dummy triggers that all start from the same noise."""
    return make_bank(family, [strength], image_size, seed).select(torch.zeros(count, dtype=torch.long))


def sample_views(seen: Observation, count: int, *, seed: int) -> torch.Tensor:
    """Draws the views [count] on which all classes are measured."""
    return torch.randperm(len(seen.pool), generator=torch.Generator().manual_seed(seed))[:count]


def _joined(parts: list[InversionStats]) -> dict[str, torch.Tensor]:
    names = {"objective": "objective", "flips": "flip_rate", "collapse": "collapse", "reach": "reach"}
    return {name: torch.cat([getattr(part, field) for part in parts]) for name, field in names.items()}
