"""How well a score tells what is poisoned or triggered from what is clean: models as well as images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""

Scores = torch.Tensor | Sequence[float]
"""One score each, [N] with N at least 1, high where something looks suspicious."""


def roc_auc(clean: Scores, suspicious: Scores) -> float:
    """Area under the ROC curve: how often a suspicious one scores above a clean one, ties counting half.

    Args:
        clean: Scores of clean images or models [n].
        suspicious: Scores of triggered images or poisoned models [m].
    """
    differences = _scores(suspicious)[:, None] - _scores(clean)[None]
    return float((differences > 0).double().mean() + (differences == 0).double().mean() / 2)


def area_interval(clean: Sequence[float], suspicious: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % interval of the area, by resampling images or models.

    Args:
        clean: Scores of clean images or models [n].
        suspicious: Scores of triggered images or poisoned models [m].
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    c, p = np.asarray(clean), np.asarray(suspicious)
    areas = [roc_auc(rng.choice(c, len(c)).tolist(), rng.choice(p, len(p)).tolist()) for _ in range(RESAMPLES)]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


def found_at(clean: Scores, suspicious: Scores, *, false_alarms: float) -> float:
    """Share of suspicious ones over the lowest threshold at which no larger share of the clean ones is over it.

    Args:
        clean: Scores of clean images or models [n].
        suspicious: Scores of triggered images or poisoned models [m].
        false_alarms: Largest share of clean ones over the threshold, in [0, 1).
    """
    ordered = _scores(clean).sort(descending=True).values
    threshold = ordered[int(false_alarms * len(ordered))]
    return float((_scores(suspicious) > threshold).double().mean())


def _scores(values: Scores) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
