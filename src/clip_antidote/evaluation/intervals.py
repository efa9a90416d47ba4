"""Rates with Wilson confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a binomial proportion.

    Unlike the normal approximation it stays meaningful at rates near 0 and 1, where attack
    success rates live.

    Args:
        successes: Number of successes, 0 to `count`.
        count: Number of trials.
        confidence: Coverage, strictly between 0 and 1.

    Returns:
        Lower and upper bound in [0, 1]; (0, 1) where there was no trial.

    Raises:
        ValueError: `successes` or `confidence` is out of range.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes must be between 0 and {count}, got {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    scale = 1 + z * z / count
    center = (share + z * z / (2 * count)) / scale
    margin = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The bounds are exactly 0 and 1 at the ends; rounding would leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, center - margin)
    high = 1.0 if successes == count else min(1.0, center + margin)
    return low, high


@dataclass(frozen=True)
class Rate:
    """A share of `count` trials.

    Attributes:
        successes: Number of successes.
        count: Number of trials.
    """

    successes: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.count:
            raise ValueError(f"successes must be between 0 and {self.count}, got {self.successes}")

    @property
    def value(self) -> float:
        """The share in [0, 1]; nan where there was no trial."""
        return self.successes / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Its Wilson 95 % interval."""
        return wilson_interval(self.successes, self.count)
