"""Fitting the evidence to surveys of models whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from clip_antidote.detection.statistics import outlier_scores

FITTED = (
    "alignment", "own", "any", "residual",
    "mask_objective", "mask_flips", "mask_collapse",
    "additive_objective", "additive_flips", "additive_collapse",
)  # fmt: skip
"""Statistics that enter the evidence."""


@dataclass(frozen=True)
class Example:
    """A survey with its truth.

    Attributes:
        values: Statistics [C] by name.
        target: Index of the target class; None for a clean model.
        weight: How much it counts.
    """

    values: dict[str, torch.Tensor]
    target: int | None
    weight: float = 1.0


def fit_evidence(
    examples: Sequence[Example], *, names: Sequence[str] = FITTED, penalty: float = 0.01
) -> tuple[dict[str, float], float]:
    """Fits weights and offset by maximum likelihood, clean and poisoned models counting the same in all.

    A model says "none" with probability 1 / (1 + mean_c exp s_c), and "class c" with exp(s_c) / C times that, where
    s_c is the log likelihood ratio of `FittedEvidence`: a conditional logit (McFadden 1974) with the choice "none".
    Weights are not negative, so that each statistic can only speak for what it means.

    Args:
        examples: Surveys with their truth.
        names: Statistics to use.
        penalty: Weight of the squared weights.

    Returns:
        Weights by name, and the offset.
    """
    matrices = [_matrix(example, names) for example in examples]
    totals = [sum(e.weight for e in examples if (e.target is None) == clean) for clean in (True, False)]
    shares = [example.weight / totals[example.target is not None] / 2 for example in examples]

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        theta = torch.tensor(parameters, requires_grad=True)
        total = penalty * theta[:-1].square().sum()
        for matrix, example, share in zip(matrices, examples, shares, strict=True):
            total = total + share * cross_entropy(matrix @ theta[:-1] - theta[-1], example.target)
        total.backward()
        assert theta.grad is not None
        return float(total), theta.grad.numpy()

    start = np.full(len(names) + 1, 0.3)
    start[-1] = 3.0
    bounds = [(0.0, None)] * len(names) + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return dict(zip(names, map(float, found.x[:-1]), strict=True)), float(found.x[-1])


def cross_entropy(scores: torch.Tensor, target: int | None) -> torch.Tensor:
    """Minus the log of the probability that the truth gets, in nats, see `fit_evidence`.

    Args:
        scores: Log likelihood ratios of the classes [C].
        target: The true target; None where there is none.
    """
    count = scores.new_tensor(len(scores))
    total = torch.nn.functional.softplus(torch.logsumexp(scores, 0) - count.log())
    return total if target is None else total - scores[target] + count.log()


def _matrix(example: Example, names: Sequence[str]) -> torch.Tensor:
    scores = outlier_scores(example.values)
    return torch.stack([scores[name].clamp_min(0) for name in names], dim=1).double()
