"""How far a class stands out among all classes: leave-one-out outliers in standard normal units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.special import ndtri, stdtr

FEWEST = 4
"""With fewer classes nothing can stand out from the others."""

SMALLEST = 1e-300
"""Smallest probability that is told apart from 0, so that logarithms and quantiles stay finite."""

LARGEST = 1 - 1e-15
"""Largest probability below 1 whose normal quantile is finite in double precision."""

LEAST_VARIANCE = 1e-18
"""Keeps a signal in which all other classes are equal from dividing by zero."""


def outlier_z(values: torch.Tensor) -> torch.Tensor:
    """How far each value lies below the others, in standard normal units.

    Every value is compared with the mean and standard deviation of all others (the outlier does not
    hide itself), t_i = (mean₋ᵢ − v_i) / (sd₋ᵢ·√(1 + 1/(n−1))); for normal values it follows Student's t
    with n − 2 degrees of freedom. Its tail probability is written as a normal quantile, so that ten
    classes and a thousand are read on one scale: with few values a large t says less.

    Args:
        values: [N]; small values are suspicious and get positive scores.

    Returns:
        Scores [N]; zeros where N is under `FEWEST`.
    """
    count = len(values)
    if count < FEWEST:
        return torch.zeros(count)
    values = values.double()
    total, squares = values.sum(), (values * values).sum()
    mean = (total - values) / (count - 1)
    variance = ((squares - values * values) / (count - 1) - mean * mean) * (count - 1) / (count - 2)
    spread = variance.clamp_min(LEAST_VARIANCE).sqrt() * math.sqrt(1 + 1 / (count - 1))
    tail = stdtr(count - 2, -((mean - values) / spread).numpy())  # of Student's t, from above
    return torch.from_numpy(0.0 - ndtri(tail.clip(SMALLEST, LARGEST))).float()  # 0, not −0


def combine_z(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Puts several scores of the same classes together: Σ z / √k (Stouffer et al. 1949)."""
    return torch.stack(list(scores)).sum(0) / math.sqrt(len(scores))
