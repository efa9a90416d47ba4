"""Fitting the evidence to surveys of models whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch.nn.utils.rnn import pad_sequence

from clip_antidote.detection.statistics import FORM, counted_scores

FITTED = (
    "alignment", "own", "any", "residual", "confusion", "neighbor", "mean_similarity",
    "wave_flips", "noise_flips", "warp_flips",
    FORM,
)  # fmt: skip
"""Statistics that enter the evidence."""


PENALTY = 0.01
"""Weight of the squared weights: of 0.01, 0.03 and 0.1 that with the least cross-entropy on towers not fitted to."""


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
    examples: Sequence[Example], *, names: Sequence[str] = FITTED, penalty: float = PENALTY
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
    totals = [sum(e.weight for e in examples if (e.target is None) == clean) for clean in (True, False)]
    shares = torch.tensor([example.weight / totals[example.target is not None] / 2 for example in examples])
    shares, targets = shares.double(), torch.tensor([-1 if e.target is None else e.target for e in examples])
    matrix, present = _stacked(examples, names)

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        theta = torch.tensor(parameters, requires_grad=True)
        scores = (matrix @ theta[:-1] - theta[-1]).masked_fill(~present, -torch.inf)
        total = penalty * theta[:-1].square().sum() + (shares * cross_entropies(scores, targets)).sum()
        total.backward()
        assert theta.grad is not None
        return float(total.detach()), theta.grad.numpy()

    start = np.full(len(names) + 1, 0.3)
    start[-1] = 3.0
    bounds = [(0.0, None)] * len(names) + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return dict(zip(names, map(float, found.x[:-1]), strict=True)), float(found.x[-1])


def cross_entropies(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Minus the log of the probability that the truth gets, in nats [N], see `fit_evidence`.

    Args:
        scores: Log likelihood ratios of the classes [N, C]; −inf where a model has fewer classes.
        targets: The true targets [N]; −1 where there is none.
    """
    count = scores.isfinite().sum(1).to(scores)
    total = torch.nn.functional.softplus(torch.logsumexp(scores, 1) - count.log())
    own = scores.gather(1, targets.clamp_min(0)[:, None])[:, 0] - count.log()
    return total - torch.where(targets >= 0, own, torch.zeros_like(own))


def _stacked(examples: Sequence[Example], names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the outlier scores [N, C, F] of all examples, 0 where one has fewer classes, and which are there."""
    matrices = []
    for example in examples:
        scores = counted_scores(example.values)
        matrices.append(torch.stack([scores[name] for name in names], dim=1).double())
    present = pad_sequence([torch.ones(len(matrix), dtype=torch.bool) for matrix in matrices], batch_first=True)
    return pad_sequence(matrices, batch_first=True), present
