"""A mixture of two Gaussians on numbers, by expectation maximization."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

LEAST_VARIANCE = 1e-6
"""Added to every variance, as scikit-learn does, so that equal values make no component of width 0."""


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians, the one with the lower mean first.

    Attributes:
        weights: Float64 [2], their shares.
        means: Float64 [2].
        variances: Float64 [2].
    """

    weights: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor

    def upper(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the posterior that values [N] are of the second component, float64 [N] in [0, 1]."""
        return _joint(values.double(), self).softmax(dim=1)[:, 1]


def fit_mixture(values: torch.Tensor, *, most: int = 500, tolerance: float = 1e-8) -> Mixture:
    """Fits two Gaussians to values [N], from the two groups that 2-means finds.

    Args:
        values: At least two numbers.
        most: Rounds at most.
        tolerance: Ends where the mean log-likelihood grows by less.
    """
    values = values.double()
    split = (values.min() + values.max()) / 2
    for _ in range(most):
        upper = values > split
        if not upper.any() or upper.all():
            break
        moved = (values[upper].mean() + values[~upper].mean()) / 2
        if moved == split:
            break
        split = moved
    above = (values > split).double()
    if not above.any():  # all are equal: one group, of which both components have half
        above += 0.5
    shares = torch.stack([1 - above, above], dim=1)
    mixture, before = _maximized(values, shares), -math.inf
    for _ in range(most):
        joint = _joint(values, mixture)
        now = float(joint.logsumexp(dim=1).mean())
        if now - before < tolerance:
            break
        mixture, before = _maximized(values, joint.softmax(dim=1)), now
    order = mixture.means.argsort()
    return Mixture(mixture.weights[order], mixture.means[order], mixture.variances[order])


def _maximized(values: torch.Tensor, shares: torch.Tensor) -> Mixture:
    """The mixture that fits best where values [N] belong to the components by these shares [N, 2]."""
    total = shares.sum(dim=0).clamp_min(1e-12)
    means = (shares * values[:, None]).sum(dim=0) / total
    variances = (shares * (values[:, None] - means).square()).sum(dim=0) / total + LEAST_VARIANCE
    return Mixture(total / total.sum(), means, variances)


def _joint(values: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """Log of weight times density of values [N] under both components, [N, 2]."""
    deviations = (values[:, None] - mixture.means).square() / mixture.variances
    return mixture.weights.log() - 0.5 * (deviations + (2 * math.pi * mixture.variances).log())
