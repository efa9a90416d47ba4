"""Perturbing images against a loss: projected gradient ascent, a step at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch


def signed_step(
    loss_of: Callable[[torch.Tensor], torch.Tensor], delta: torch.Tensor, *, size: float, bound: float
) -> torch.Tensor:
    """One step of projected gradient ascent within an L∞ ball (Madry et al. 2018).

    Args:
        loss_of: The loss to climb, a scalar, of the perturbation.
        delta: The perturbation, any shape.
        size: Step size; negative to descend.
        bound: Radius of the ball.

    Returns:
        The perturbation after the step, detached, each element within ± `bound`.
    """
    delta = delta.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss_of(delta), delta)
    return (delta.detach() + size * slope.sign()).clamp(-bound, bound)
